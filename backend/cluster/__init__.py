"""Prism on a Ray cluster: replicas of the engine behind Ray Serve, for a department.

    settings    what can be set, one TOML file
    head        `python -m backend serve`: starts Ray, or joins it, and deploys the replicas
    replica     one engine on one device; Ray starts as many as the load asks for, and starts dead ones again
    board       what replicas know of one another: their state, and models of the users' own
    connector   the process beside the pages that talks to the replicas through Serve's handles
    connection  the pages' end of it, with the interface of a connection to another Prism
    environment how Ray is started: no usage statistics, a token, loopback
    rows        batches through Ray Data

Only `head`, `replica`, `board`, `connector` and `rows` import Ray, and pages import none of them: a process that is
connected to Ray is ended by Ray a minute after the cluster is gone (measured, Ray 2.60), and pages must outlive that.
So the connector is a process of its own, and what goes through the pipe between is JSON.
"""
