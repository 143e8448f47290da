"""This deployment's corpus of captioned pictures, if it has one."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from headrace.prep.images.corpus import ImageCorpus, image_shard_keys_in, load_images


class ImagesResource(dg.ConfigurableResource["ImagesResource"]):
    """The file that describes the pictures, and where its relative paths start."""

    images_file: str = Field(description="YAML file that describes the pictures: an absolute path; it may be missing.")
    home: str = Field(description="Directory at which the images file's relative paths start.")

    def images(self) -> ImageCorpus:
        """Raises: InvalidInput: there is no such file, or it is broken."""
        return load_images(Path(self.images_file))

    def problems(self) -> tuple[str, ...]:
        """What a person has to mend in the images file; nothing if it can be read, or there is none."""
        _, faults = image_shard_keys_in(Path(self.images_file))
        return (faults,) if faults else ()
