"""What workers that train together do in the tests.

Apart from ``work``: other workers start sooner without what training imports.
"""

import os
import signal
import threading

import torch

from engines import work
from ppl_vae import runs, training


def train_and_die(config, folder, notes, workers):
    """Train as one of the workers; the last is killed after three epochs, once."""
    last = torch.distributed.get_rank() == workers - 1

    def fit(*arguments, on_start, on_epoch, **settings):
        def start(history):
            work.append(notes, f"begun-at-{len(history)}")
            on_start(history)

        def after(record):
            on_epoch(record)
            if record.epoch == 3:
                # The last worker waits in the next epoch's first message, and dies there.
                work.append(notes, "three-epochs")
                work.wait_for(lambda: "killed" in work.lines(notes))

        return training.fit(
            *arguments, on_start=start, on_epoch=after, checkpoint_seconds=0.0, **settings
        )

    if last and "killed" not in work.lines(notes):
        threading.Thread(target=_die_when, args=(notes,), daemon=True).start()
    runs._job.fit = fit
    return runs.train_run(config, folder, workers=workers, progress=False, device="cpu")[1]


def _die_when(notes):
    work.wait_for(lambda: "three-epochs" in work.lines(notes))
    work.append(notes, "killed")
    os.kill(os.getpid(), signal.SIGKILL)
