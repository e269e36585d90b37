"""Progress bars, shown only in a terminal or a notebook."""

import sys


def no_bar(progress: bool) -> bool:
    """Whether to leave a bar out: it was not asked for, or there is no terminal and no notebook.

    For the argument ``disable`` of tqdm, whose own None leaves it out of a notebook too.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return not progress or not (terminal or in_notebook())


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
