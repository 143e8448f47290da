"""The reference pages in `docs/reference`, written from the code: `make reference` renews them.

Each module reads one thing that the code knows already (dataclasses, commands, constants, definitions), so a page says
what the code does. Nothing here is shipped: the pages are.
"""
