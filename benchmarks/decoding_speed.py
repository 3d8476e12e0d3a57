"""Decoding beside Hugging Face `generate` and CTranslate2 in fp32, on the same exported weights, in one run.

The tiny Transformer of the recipe multi30k-en-de with random weights and a vocabulary of 8,000 translates the first 64
sentences of the validation set, 20 positions each, whatever it thinks of ending. Each side runs in a process of its
own; rounds are interleaved. That the outputs are the same is checked on the way.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from decoding_child import CELLS
from peer import measure
from report import machine, replace_block

from footplate.context import Context
from footplate.job import load_job
from footplate_nlp.export import Trained, write_and_compare
from footplate_nlp.model import build_model
from footplate_nlp.symbols import EOS
from footplate_nlp.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1]
MULTI30K = ROOT / "data" / "multi30k"
CHILD = ROOT / "benchmarks" / "decoding_child.py"
SENTENCES = 64
SIDES = {"footplate": "Footplate", "hugging_face": "Hugging Face `generate`", "ctranslate2": "CTranslate2, fp32"}


def write_sides(multi30k: Path, folder: Path) -> dict[str, float]:
    """The same weights and sentences for all; how far the peers' log-probabilities are from ours."""
    config: Any = load_job("multi30k-en-de", [f"corpus.folder={multi30k}", "vocabulary.size=8000"]).config
    vocabulary = Vocabulary()
    vocabulary.learn(config.vocabulary, lambda: config.corpus.pairs("train"))
    Context(seed=1).seed_torch("initialise")
    model: Any = build_model(config.model, vocabulary.source.size, vocabulary.target.size).eval()
    with torch.no_grad():  # as they are initialised, one token repeats for ever
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    torch.save(model.state_dict(), folder / "model.pt")
    lines = [source for source, _ in islice(config.corpus.pairs("valid"), SENTENCES)]
    sentences = [[*ids, EOS] for ids in vocabulary.source.encode(lines)]
    (folder / "sentences.json").write_text(json.dumps(sentences))
    differences = {}
    for name in ("huggingface", "ctranslate2"):
        (folder / name).mkdir()
        differences[name] = write_and_compare(folder / name, Trained(config, model, vocabulary, "nowhere"), name, None)
    return differences


def same_outputs(ours: list[Any], theirs: list[Any]) -> list[int]:
    """Of each search, for how many sentences the set of final hypotheses is the same: the end is not priced alike."""
    return [
        sum({tuple(ids) for ids in a} == {tuple(ids) for ids in b} for a, b in zip(mine, other, strict=True))
        for mine, other in zip(ours, theirs, strict=True)
    ]


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A row for each side: the median of each cell with its range, and memory."""
    names = [f"{'greedy' if beam == 1 else f'beam {beam}'}, batch {batch}" for beam, batch in CELLS]
    lines = [f"| sentences/s | {' | '.join(names)} | peak resident MB (loaded) |", "|---|---|---|---|---|---|"]
    medians = {}
    for side, rounds in found.items():
        rates = list(zip(*(each["rates"] for each in rounds), strict=True))
        medians[side] = [statistics.median(cell) for cell in rates]
        cells = [f"{statistics.median(cell):,.1f} ({min(cell):,.1f}-{max(cell):,.1f})" for cell in rates]
        peak, loaded = (statistics.median(each[name] for each in rounds) for name in ("peak", "loaded"))
        lines.append(f"| {SIDES[side]} | {' | '.join(cells)} | {peak:,.0f} ({loaded:,.0f}) |")
    for side in ("hugging_face", "ctranslate2"):
        ratios = [ours / theirs for ours, theirs in zip(medians["footplate"], medians[side], strict=True)]
        lines.append(f"| ours / {SIDES[side]} | {' | '.join(f'**{ratio:.2f}**' for ratio in ratios)} | |")
    return lines


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--multi30k", type=Path, default=MULTI30K, help="the folder with Multi30k")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes", type=int, default=2, help="how often a round times each setting")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    outputs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        differences = write_sides(options.multi30k, Path(name))
        arguments = ["--threads", str(options.threads), "--passes", str(options.passes)]
        for number in range(options.rounds):
            for side in SIDES:
                wanted = [] if number else ["--outputs"]
                measured = measure(
                    Path(sys.executable), CHILD, side, name, *arguments, *wanted, threads=options.threads
                )
                outputs.setdefault(side, measured.pop("outputs", None))
                found[side].append(measured)
                print(side, measured, flush=True)
    lines = table(found)
    same = {side: same_outputs(outputs["footplate"], outputs[side]) for side in ("hugging_face", "ctranslate2")}
    lines += [
        "",
        f"Of {SENTENCES} sentences, the same five final hypotheses of the beam, and the same greedy output: "
        + "; ".join(f"{SIDES[side]} {beam} and {greedy}" for side, (beam, greedy) in same.items())
        + ". Log-probabilities differ from ours by at most "
        + ", ".join(f"{difference:.0e} ({name})" for name, difference in differences.items())
        + ".",
    ]
    print("\n".join(lines))
    command = f"`python benchmarks/decoding_speed.py --rounds {options.rounds} --threads {options.threads}`: medians "
    command += f"(lowest-highest) of {options.rounds} rounds of {options.passes} passes"
    replace_block(ROOT / "docs" / "speed.md", "decoding", [*lines, "", f"{command}, {machine()}."])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
