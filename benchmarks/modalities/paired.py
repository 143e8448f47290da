"""x"""

from benchmarks.modalities.parts import Given, Outcome


def run(given: Given, directory):
    return Outcome(body={}, bars={})
