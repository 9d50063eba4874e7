"""The shop: one package a service, all of one shape, and the few files that they share.

`topology` says who exists and who talks to whom. A service has `app.py` (wiring), `api.py` (routes and bodies),
`domain.py` (pure rules), `store.py` (its data, the SQL visible), `events.py` (what it hears and says), of these those
that it needs. `python -m faultline.shop` runs all of them, each in a process of its own; with one name, that one alone.
"""
