"""Jobs on several processes and machines, every one accounted for.

    running     jobs -> outcomes: the loop, and what happens when workers die
    outcome     Outcome: what became of a job
    serial      Serial: the executor that runs at once, in this process
    pools       what an executor is to that loop
    local       processes of this machine
    cluster     the workers of a Dask scheduler
    parcels     a function and a job -> bytes; what is large travels apart, and once
    worker      bytes -> the job done, in the process that does it
    settings    what of Keras's settings must be the same there
    shipped     Shipped: a model as a value that travels
    dumping     pickles with models, losses and a user's own classes in them

Any `concurrent.futures.Executor` will do. `None` means processes of this machine, and a Dask
client's `client.get_executor()` means those of a cluster.
"""

from resect.parallel.outcome import Outcome
from resect.parallel.running import run
from resect.parallel.serial import Serial
from resect.parallel.shipped import Shipped

__all__ = ["Outcome", "Serial", "Shipped", "run"]
