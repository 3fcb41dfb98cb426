"""Option files of other projects, translated into ours by tables of rules.

A method states the formats that it takes as ``IMPORTS``; :mod:`upsr.config.imports.formats` finds them.
"""
