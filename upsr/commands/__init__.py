"""Sub-commands, one module each: ``EXAMPLES``, ``add_arguments(parser)`` and ``main(arguments)``.

Those of ``upsr`` are listed in :mod:`upsr.cli`, those of methods in the methods' modules.
"""
