"""The gate's verdict over several clients once more, in numpy over many trials at once: nothing of ours is called."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

Counts = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A proportion that is worse when higher. Counts are [trial, client, (candidate, stable)]."""

    margin: float = 0.02
    num_min: int = 50
    num_max: int = 4000
    alpha: float = 0.05
    is_line: bool = False

    def verdicts(self, nums: Counts, bad: Counts) -> tuple[np.ndarray, np.ndarray]:
        """1: harmful, 2: not inferior, 0: neither; and how much of the horizon is in."""
        information = np.where(nums.min(2) > 0, nums.prod(2) / np.maximum(nums.sum(2), 1), 0.0)
        is_most = information >= 0.6 * information.sum(1, keepdims=True)
        everybody = np.ones(information.shape, dtype=bool)
        found, share = self._sum(nums, bad, information, everybody, is_most)
        least = share.copy()
        for client in range(nums.shape[1]):
            others = everybody.copy()
            others[:, client] = False
            without, share_without = self._sum(nums, bad, information, others, is_most)
            is_asked = ~is_most[:, client] & (information[:, client] > 0)
            found = np.where(is_asked & (without != found), 0, found)
            least = np.where(is_asked, np.minimum(least, share_without), least)
        return found, np.where(share >= 2.5, share, least / (1.0 if self.is_line else 1.25))

    def _sum(
        self, nums: Counts, bad: Counts, information: Counts, alive: Counts, is_most: Counts
    ) -> tuple[np.ndarray, np.ndarray]:
        weights = self._weights(nums, bad, np.where(alive, information, 0.0), (is_most & alive).any(1))
        nums, bad = np.where(alive[..., None], nums, 0), np.where(alive[..., None], bad, 0)
        with np.errstate(all="ignore"):
            counts = weights * information * alive
            total, parts = counts.sum(1), nums.sum(2) / nums.sum((1, 2))[:, None]
            is_in = counts > 0
            difference = np.where(is_in, counts * (bad[..., 0] / nums[..., 0] - bad[..., 1] / nums[..., 1]), 0).sum(1)
            share = 2 * total**2 / np.where(is_in, counts**2 / information, 0).sum(1) / self.num_max
            rate = (bad.sum(2) + 0.5 * parts) / (nums.sum(2) + parts)
            several = is_in.sum(1, keepdims=True) > 1
            single = rate * (1 - rate) * np.where(several, nums.sum(2) / (nums.sum(2) - 1), 1)
            base = np.clip(rate - self.margin * nums[..., 0] / nums.sum(2), 0, 1 - self.margin)
            worse = np.clip(base + self.margin, 0, 1)
            apart = worse * (1 - worse) / nums[..., 0] + base * (1 - base) / nums[..., 1]
            harm = np.where(is_in, counts**2 * single / information, 0).sum(1)
            advance = np.where(is_in, counts**2 * apart, 0).sum(1)
            tails = (1 - 2 * rate) * (nums[..., 0] ** -2.0 - nums[..., 1] ** -2.0)
            skewness = np.where(is_in, counts**3 * single * tails, 0).sum(1) / harm**1.5
            up, down = self._bound(share, 2.0), self._bound(share, 1.0)
            up = up + np.maximum(skewness, 0) / 6 * (up**2 - 1)
            found = np.where(difference - up * np.sqrt(harm) > 0, 1, 0)
            fine = difference / total + down * np.sqrt(np.maximum(advance / total**2, 1e-12)) < self.margin
            found = np.where((found == 0) & fine, 2, found)
        is_told = (nums.sum(1).min(1) >= self.num_min) & (total > 0)
        return np.where(is_told, found, 0), np.nan_to_num(share)

    def _weights(self, nums: Counts, bad: Counts, information: Counts, has_most: Any) -> np.ndarray:
        rate = (bad.sum(2) + 0.5) / (nums.sum(2) + 1)
        variance, is_in = rate * (1 - rate), information > 0
        num_clients = is_in.sum(1)
        is_told = is_in & (nums.min(2) >= self.num_min / np.maximum(num_clients, 1)[:, None])
        ranked = np.sort(np.where(is_told, variance, np.inf), axis=1)
        middle = ranked[np.arange(len(nums)), np.maximum((is_told.sum(1) - 1) // 2, 0)]
        typical = np.where(is_told.sum(1) > 2, middle, self.margin**2 * self.num_max / 32)
        counts = np.minimum(1, typical[:, None] / variance) ** 2 * information
        falling = -np.sort(-counts, axis=1)
        most = np.maximum(falling[:, 1], falling[:, 1:].sum(1) / 2)
        is_cut = ~has_most & (num_clients > 2)
        counts = np.where(is_cut[:, None], np.minimum(counts, most[:, None]), counts)
        return np.divide(counts, information, out=np.zeros_like(counts), where=is_in)

    def _bound(self, share: np.ndarray, slope: float) -> np.ndarray:
        if self.is_line:
            at = np.minimum(share, 2.5)
            return (_intercept(self.alpha, slope, 2.5) + slope * at) / np.sqrt(at)
        rho = 0.25 / (2 * math.log(1 / self.alpha) + math.log(1 + 2 * math.log(1 / self.alpha)))
        spread = share + rho
        return np.sqrt(2 * spread * np.log1p(np.sqrt(spread / rho) / (2 * self.alpha)) / share)


def _intercept(alpha: float, slope: float, end: float) -> float:
    """By halving: the chance to cross falls as the line moves out."""
    low, high = 0.0, 10.0
    for _ in range(60):
        at = (low + high) / 2
        root = math.sqrt(end)
        crossed = ndtr(-(at / root + slope * root)) + math.exp(-2 * at * slope) * ndtr(slope * root - at / root)
        low, high = (at, high) if crossed > alpha else (low, at)
    return high


def ends(
    rule: Rule,
    honest: list[float],
    rates: tuple[float, float],
    ill: tuple[float, float, float],
    *,
    runs: int,
    seed: int,
) -> tuple[float, float]:
    """Shares of trials that end in harm and in promotion, looked at every 200 honest units a side.

    Args:
        rates: of honest requests on the candidate and on the stable set.
        ill: how many times the honest requests one more client sends, and how often it makes either set fail.
    """
    draws = np.random.default_rng(seed)
    parts = np.array(honest) / sum(honest)
    num_ill = round(400 * ill[0])
    nums = np.zeros((runs, len(honest) + 1, 2))
    bad, found = np.zeros_like(nums), np.full(runs, -1)
    fails = np.array([[*rates]] * len(honest) + [[*ill[1:]]])
    for _ in range(200):
        alive = np.flatnonzero(found < 0)
        if not len(alive):
            break
        sent = np.concatenate([draws.multinomial(400, parts, len(alive)), np.full((len(alive), 1), num_ill)], axis=1)
        candidate = draws.binomial(sent, 0.5)
        now = np.stack([candidate, sent - candidate], axis=2)
        nums[alive] += now
        bad[alive] += draws.binomial(now, fails)
        verdict, share = rule.verdicts(nums[alive], bad[alive])
        is_over = (verdict > 0) | (share >= 1)
        found[alive[is_over]] = verdict[is_over]
    return float((found == 1).mean()), float((found == 2).mean())
