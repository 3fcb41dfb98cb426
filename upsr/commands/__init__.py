"""The sub-commands of ``upsr``, one module each: ``EXAMPLES``, ``add_arguments(parser)`` and ``main(arguments)``."""
