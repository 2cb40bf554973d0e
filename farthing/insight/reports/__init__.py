"""Reports, one file each: what to ask the ledger, and a table made of its answer.

A report never contains SQL and never formats: ``query`` says what it needs, ``build`` returns a ``Table``.
"""
