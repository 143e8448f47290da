"""Which runs are short: all of them together are so little work that letting them pass delays nobody by much.

While a backlog lasts, more and more runs have waited too long and go by age, until the queue is one in order of
submission, and a run of a minute waits as long as one of a day. In the trace of a GPU cluster two fifths of all runs
are a fiftieth of the work: let past the others, they cost these as much. It is a share of the work that came lately,
not a number of seconds: right for runs of minutes and of days; and where all runs are alike, none is short.
"""

from headrace.placement.arrivals import Work

# Of the work of a pool: what runs that have waited too long lose by it at most, in the mean.
SHARE = 0.02


def short_below(work: Work, share: float = SHARE) -> float:
    """Runs that are expected to take less are short, in seconds; 0: none is.

    What they take is what such runs took in the end: whoever says too little of all its runs has no short ones.
    """
    shortest_first = work.expected.argsort()
    done = work.total[shortest_first].cumsum()
    if not len(done) or not done[-1]:
        return 0.0
    # The first that would be too much; so runs that are expected to take the same are all short, or none is.
    return float(work.expected[shortest_first[int(done.searchsorted(share * done[-1], side="right"))]])
