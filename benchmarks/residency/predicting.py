"""How long a request will take, told from its fields by the requests that ended before it."""

from collections import defaultdict
from collections.abc import Iterator

from benchmarks.residency.image_trace import Job
from headrace.engines.host.work import WorkSeconds

# A mean of so many others stands beside a few of one's own.
_NUM_OF_OTHERS = 3
_FIRST_SECONDS = 25.0


class Predictor:
    """Means for each checkpoint, number of images and number of steps, drawn to those of all checkpoints, of all
    numbers of steps, and of all requests, as long as there are few."""

    def __init__(self) -> None:
        self._means: defaultdict[tuple[object, ...], WorkSeconds] = defaultdict(WorkSeconds)

    def seconds(self, job: Job) -> float:
        found = _FIRST_SECONDS
        for key in _from_all_to_own(job):
            mean = self._means[key]
            found = (mean.num * mean.mean + _NUM_OF_OTHERS * found) / (mean.num + _NUM_OF_OTHERS)
        return found

    def has_ended(self, job: Job) -> None:
        for key in _from_all_to_own(job):
            self._means[key].add(job.seconds)


def _from_all_to_own(job: Job) -> Iterator[tuple[object, ...]]:
    yield ()
    yield (job.num_images,)
    yield (job.num_images, job.num_steps)
    yield (job.checkpoint, job.num_images, job.num_steps)
