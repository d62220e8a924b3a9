"""Write scikit-learn's handwritten digits as the four files of MNIST, so that whatever reads MNIST reads them too.

    python data/make_digits.py        (needs scikit-learn; takes a second)

The files are part of the repository: run this only to see that they are what data/README.md says. The same input gives the
same bytes.
"""

import struct
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TRAIN = 1_437  # the first 1,437 images; the other 360 are MNIST's "t10k"
RAW = Path(__file__).resolve().parent / "MNIST" / "raw"


def idx(array: np.ndarray) -> bytes:
    """The IDX form of an array of bytes: 0, 0, type 8 (unsigned byte), rank; the sizes as big-endian uint32; the bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + np.ascontiguousarray(array, dtype=np.uint8).tobytes()


def main() -> None:
    """Write the four files beside this script."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16))  # 0..16 to 0..255, (1797, 8, 8)
    RAW.mkdir(parents=True, exist_ok=True)
    for name, part in ("train", slice(None, TRAIN)), ("t10k", slice(TRAIN, None)):
        (RAW / f"{name}-images-idx3-ubyte").write_bytes(idx(images[part]))
        (RAW / f"{name}-labels-idx1-ubyte").write_bytes(idx(digits.target[part]))
    for file in sorted(RAW.iterdir()):
        print(f"{file.stat().st_size:>7,} bytes  {file.name}")


if __name__ == "__main__":
    main()
