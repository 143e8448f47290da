"""The inner loop of the lookahead, compiled: a microsecond for a draw of sixty runs."""

from collections.abc import Callable

import numba
import numpy as np

from headrace.placement.demand import WHOLE


def _compiled(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the compiled function: two seconds at each start
        return numba.njit(nogil=True)(function)


@_compiled
def idle_after(
    hosts: np.ndarray, gpus: np.ndarray, needs: np.ndarray, milli: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """Mean idle thousandths of each state's GPUs after best-fitting each stream of draws onto it.

    Args:
        hosts: int64 [state, 2], free CPU and memory.
        gpus: int64 [state, gpu, 2], class and free thousandths; 0 free pads.
        needs: int64 [demand, 3], CPU, memory and number of GPUs.
        milli: int64 [demand, class], thousandths that each GPU of the demand takes.
        draws: int32 [stream, draw], demands.
    """
    num_states, num_gpus = gpus.shape[0], gpus.shape[1]
    num_streams, num_draws = draws.shape
    result = np.zeros(num_states)
    free = np.empty(num_gpus, np.int64)
    least_milli = np.empty(milli.shape[0], np.int64)
    for demand in range(milli.shape[0]):
        least_milli[demand] = milli[demand].min()
    for state in range(num_states):
        classes = gpus[state, :, 0]
        total_before = gpus[state, :, 1].sum()
        if total_before == 0:
            continue
        summed = 0
        for stream in range(num_streams):
            cpu, memory, total, largest = hosts[state, 0], hosts[state, 1], total_before, 0
            for gpu in range(num_gpus):
                free[gpu] = gpus[state, gpu, 1]
                largest = max(largest, free[gpu])
            for draw in range(num_draws):
                demand = draws[stream, draw]
                if least_milli[demand] > largest or needs[demand, 0] > cpu or needs[demand, 1] > memory:
                    continue
                wanted = needs[demand, 2]
                if wanted == 1:
                    best, best_left = -1, 2 * WHOLE
                    for gpu in range(num_gpus):
                        left = free[gpu] - milli[demand, classes[gpu]]
                        if 0 <= left < best_left and free[gpu] > 0:
                            best, best_left = gpu, left
                    if best < 0:
                        continue
                    total -= free[best] - best_left
                    free[best] = best_left
                else:
                    fitting = 0
                    for gpu in range(num_gpus):
                        if free[gpu] >= milli[demand, classes[gpu]]:
                            fitting += 1
                    if fitting < wanted:
                        continue
                    for gpu in range(num_gpus):
                        if wanted > 0 and free[gpu] >= milli[demand, classes[gpu]]:
                            total -= milli[demand, classes[gpu]]
                            free[gpu] -= milli[demand, classes[gpu]]
                            wanted -= 1
                cpu -= needs[demand, 0]
                memory -= needs[demand, 1]
                largest = 0
                for gpu in range(num_gpus):
                    largest = max(largest, free[gpu])
                if largest == 0:
                    break
            summed += total
        result[state] = summed / num_streams
    return result
