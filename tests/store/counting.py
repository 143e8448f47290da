"""A directory as the store that counts what it is asked."""

from headrace.store.local import LocalStore


class CountingStore(LocalStore):
    """How often it was asked for an object, there or not, and for a listing."""

    num_reads = num_listings = 0

    def read(self, key: str) -> bytes:
        self.num_reads += 1
        return super().read(key)

    def children(self, prefix: str) -> list[str]:
        self.num_listings += 1
        return super().children(prefix)

    @property
    def num_asked(self) -> int:
        return self.num_reads + self.num_listings
