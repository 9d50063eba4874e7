"""The lab in the terminal, one file a verb; the verbs are listed in `__main__`."""

__all__: list[str] = []
