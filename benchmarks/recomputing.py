"""Peak memory and time of an update with `model.recompute` and without, for a small model of each kind and a deep one.

python benchmarks/recomputing.py [--updates 3]

Each number is from a process of its own: 4,096 tokens as 128 pairs of 32 and a vocabulary of 10,000, forward and
backward, without an optimizer. Memory is what the process held at most beyond what it held before the first update;
time is processor time, the least of the updates after the first.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

SIZES = {
    "Transformer 4 + 4, width 128": "dict(kind='transformer')",
    "Transformer 12 + 12, width 256": (
        "dict(kind='transformer', encoder_layers=12, decoder_layers=12, width=256, feed_forward_width=1024)"
    ),
    "ConvS2S 4 + 3, width 256": "dict(kind='convolutional')",
    "ConvS2S 12 + 12, width 256": "dict(kind='convolutional', encoder_layers=12, decoder_layers=12)",
}


def measure(sizes: str, recompute: bool, updates: int) -> None:
    """Print megabytes and seconds; in a fresh process."""
    import torch
    from pydantic import TypeAdapter

    from footplate_nlp.batches import Batch
    from footplate_nlp.losses import TranslationLoss
    from footplate_nlp.model import ModelConfig, build_model

    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = TypeAdapter(ModelConfig).validate_python(eval(sizes) | {"recompute": recompute})
    model = build_model(config, 10_000, 10_000)
    loss = TranslationLoss(model.train(), 0.1)
    batch = Batch(*torch.randint(4, 10_000, (3, 128, 32)))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(updates + 1):
        start = time.process_time()
        loss(batch).total.backward()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((peak - before) / 1024, min(seconds[1:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("SIZES", "RECOMPUTE"))
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], arguments.measure[1] == "True", arguments.updates)
        return
    print("| model | MB | MB with recompute | s | s with recompute |\n|---|---|---|---|---|", flush=True)
    for name, sizes in SIZES.items():
        cells = []
        for recompute in (False, True):
            command = [sys.executable, __file__, "--updates", str(arguments.updates), "--measure", sizes]
            # Large arrays go back to the system at once, so that the peak is what was needed and not what was kept.
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            done = subprocess.run(
                [*command, str(recompute)], env=environment, check=True, capture_output=True, text=True
            )
            cells.append([float(number) for number in done.stdout.split()])
        (megabytes, seconds), (less, longer) = cells
        print(f"| {name} | {megabytes:.0f} | {less:.0f} | {seconds:.2f} | {longer:.2f} |", flush=True)


if __name__ == "__main__":
    main()
