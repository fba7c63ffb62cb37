"""The endpoints of the API: one module for each family, one for the engine itself, one for jobs.

Each module has `endpoints(door)`, which returns functions whose signature and docstring are the contract: the API's
documentation, OpenAPI and the descriptions of the MCP tools are made of them. Nothing checks the types before the
functions are called, so every argument is checked here or in the backend.
"""
