import pytest


# Imported within: a conftest is read before the suite's filters of warnings are set.
@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """A study of five arms and three seeds, with a failed cell and one that waits."""
    from report.simulated import write_study

    return write_study(
        tmp_path_factory.mktemp("study"),
        seeds=3,
        num_data=40,
        epochs=20,
        failed=[(1, 2)],
        waiting=[(3, 1)],
        methods=("iwae", {"method": "iwae", "particles": 50, "label": "fewer"}),
    )
