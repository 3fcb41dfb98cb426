"""The sub-commands of ``upsr``, one module each: ``ABOUT``, ``add_arguments(parser)`` and ``main(arguments)``."""
