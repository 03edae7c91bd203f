"""The first README command: Fini to DuckDB with Meltano, and a look at what landed.

Without a key it reads a made-up Fini on this machine; with ``TAP_FINI_API_KEY`` set, Fini itself.
"""
