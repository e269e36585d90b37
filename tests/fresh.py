"""Code in processes that have seen nothing of the package, which need not start from nothing.

An interpreter that has imported torch and Pyro, which takes most of a start, forks a child for each
piece of code.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import json, os, runpy, sys, traceback, warnings
import numpy, pyro, torch
assert not [name for name in sys.modules if name.startswith("ppl_vae.")]

def child(asked):
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(asked["cwd"])
    os.environ.update(asked["env"])
    if asked["strict"]:
        warnings.simplefilter("error")
    sys.argv = asked["argv"]
    code = 0
    try:
        if asked["code"] is None:
            sys.path.insert(0, os.path.dirname(sys.argv[0]))
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            sys.path.insert(0, "")
            # Classes that the code makes can be pickled, as in a script.
            exec(compile(asked["code"], "<string>", "exec"), vars(sys.modules["__main__"]))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        child(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Interpreter:
    """An interpreter that forks; started when it is first asked."""

    def __init__(self):
        self._process = None

    def run(self, code, *arguments, cwd="/", env=None, strict=False):
        """Run code; ``strict`` makes errors of warnings. As subprocess.run, which never raises."""
        return self._run(code, ["-c", *map(str, arguments)], cwd, env, strict)

    def script(self, path, *arguments):
        """Run a file, with its folder in the path of imports."""
        return self._run(None, [str(path), *map(str, arguments)], Path.cwd(), None, False)

    def close(self):
        if self._process is not None:
            self._process.communicate()

    def _run(self, code, argv, cwd, env, strict):
        if self._process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-P", "-c", SERVER]
            self._process = subprocess.Popen(command, env=environment, **pipes)
            assert self._process.stdout.readline() == "ready\n"
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder) / name for name in ("out", "err"))
            asked = {
                "code": code, "argv": argv, "cwd": str(cwd), "env": env or {}, "strict": strict,
                "out": str(out), "err": str(err),
            }  # fmt: skip
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(argv, status, out.read_text(), err.read_text())
