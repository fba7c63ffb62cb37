"""A model of the visitor's own data: fitted as a job, watched, found again, shown, taken away."""


def own_models() -> dict[str, str]:
    """Keys and titles of the models that were fitted here, the newest first."""
    return {}


def show_own_data() -> None:
    """From two files to a fitted model."""
    from pages.additive.own_data import ask_for_data

    ask_for_data()
