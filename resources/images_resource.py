"""This deployment's corpus of captioned pictures, if it has one."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from headrace.engines.model_directory import model_directory
from headrace.errors import InvalidInput
from headrace.prep.images.corpus import CaptionExamples, ImageCorpus, image_shard_keys_in, load_images


class ImagesResource(dg.ConfigurableResource["ImagesResource"]):
    """The file that describes the pictures, and where its relative paths start."""

    images_file: str = Field(description="YAML file that describes the pictures: an absolute path; it may be missing.")
    home: str = Field(description="Directory at which the images file's relative paths start.")

    def images(self) -> ImageCorpus:
        """Raises: InvalidInput: there is no such file, or it is broken."""
        return load_images(Path(self.images_file))

    def examples(self) -> CaptionExamples:
        """Raises: InvalidInput: the images file does not say how captions are read."""
        images = self.images()
        if images.examples is None:
            raise InvalidInput(
                f"{images.name} has no examples, so nobody knows which model reads its captions. Set examples: "
                f"{{caption_encoder: …}} in {self.images_file}."
            )
        return images.examples

    def caption_encoder_directory(self) -> Path:
        """A local directory; a model of the hub is downloaded first.

        Raises: InvalidInput: as `examples`; neither a directory nor a model on the hub.
        """
        setting = f"caption_encoder of {self.images().name}"
        return model_directory(self.examples().caption_encoder, setting=setting, home=Path(self.home))

    def problems(self) -> tuple[str, ...]:
        """What a person has to mend in the images file; nothing if it can be read, or there is none."""
        _, faults = image_shard_keys_in(Path(self.images_file))
        return (faults,) if faults else ()
