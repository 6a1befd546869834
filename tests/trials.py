"""The trials of a search in its storage, without what its workers note of themselves."""

import optuna

CLAIMS = "workers/claims"


def trials_in(storage):
    """Return name -> trials of the studies."""
    names = [name for name in optuna.get_all_study_names(storage) if not name.endswith(CLAIMS)]
    return {
        name: optuna.load_study(study_name=name, storage=storage).trials for name in sorted(names)
    }


def claims_in(storage, name="sekron"):
    """Return the trials of a search's workers and of their claims."""
    return optuna.load_study(study_name=f"{name}/{CLAIMS}", storage=storage).trials
