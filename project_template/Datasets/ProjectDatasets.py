"""The datasets of this project: what a sample is, and how training reads it."""

from pathlib import Path

from benchkit import IterableChunk, ProcessorDataset, decode_image

DIGITS = Path(__file__).resolve().parent / "digits"


class Digits(ProcessorDataset):
    """Says what is packed: one picture and one label for each sample."""

    def __init__(self, files: list[Path]):
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def get_file(self, item: int) -> list[str]:
        return [str(self._files[item])]

    def get_label_and_numeric_data(self, item: int) -> int:
        # A picture lies in the folder named after its label: digits/7/0042.png.
        return int(self._files[item].parent.name)


class DigitsChunk(IterableChunk):
    """Says what training gets: the samples come back from the chunks, and leave here as tensors."""

    def __init__(self, name: str, cloud: bool, is_train: bool):
        super().__init__(name, cloud, shuffle=is_train)

    def _data_iterator(self):
        for label, files in super()._data_iterator():
            # One channel of 8 x 8 pixels, from 0 to 1.
            yield label, decode_image(files[0], mode="L") / 255


def main():
    """List what `python manage.py migrate-data` packs, tests and uploads."""
    files = sorted(DIGITS.glob("*/*.png"))

    # Every sixth picture validates, and is never trained on.
    val = files[::6]
    train = [file for number, file in enumerate(files) if number % 6]

    # (what is packed, how it is read, its name, further arguments of the reading class)
    return [
        (Digits(train), DigitsChunk, "train", [True], {}),
        (Digits(val), DigitsChunk, "val", [False], {}),
    ]
