"""Foreign formats to the raw contract, a module a format.

Enters: the path of a source, `formats.Options`. Leaves: `imported.Imported`, which write.py turns into a folder.
A new format is a module with one function, an entry of formats.FORMATS and a case in commands/importing.py.
"""
