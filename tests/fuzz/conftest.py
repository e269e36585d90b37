"""An option to read all damaged files, and not a share of them."""


def pytest_addoption(parser):
    parser.addoption("--fuzz-all", action="store_true", help="read all damaged files of tests/fuzz")
