"""One side of `decoding_speed.py`, alone in its process: sentences a second, outputs and memory, a JSON line on stdout.

Nobody imports what only the others need: CTranslate2 is kept from importing torch, as where torch is not installed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

LENGTH = 20
"""Steps of the decoder for each sentence, whatever it thinks of ending."""
CELLS = [(5, 64), (1, 64), (5, 1), (1, 1)]
"""Beam and batch."""

Decode = Callable[[list[list[int]], int, int], list[list[list[int]]]]
"""(sentences, beam, so many of the best are returned) -> ids, those of the first 19 positions."""


def footplate(folder: Path, threads: int) -> Decode:
    """Ours: 19 tokens, and the end of sentence at the 20th, which is the maximum."""
    import torch

    from footplate.job import load_job
    from footplate_nlp.beam import BeamConfig
    from footplate_nlp.hypothesis import Length
    from footplate_nlp.model import build_model
    from footplate_nlp.search import GreedyConfig, search

    torch.set_num_threads(threads)
    state = torch.load(folder / "model.pt", weights_only=True)
    vocabulary = len(state["target_embedding.weight"])
    model = build_model(load_job("multi30k-en-de").config.model, vocabulary, vocabulary).eval()
    model.load_state_dict(state)
    length = Length(minimum=LENGTH - 1, maximum=LENGTH, factor=0, extra=LENGTH)

    def decode(sentences: list[list[int]], beam: int, best: int) -> list[list[list[int]]]:
        source_BS = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in sentences], batch_first=True)
        config = GreedyConfig(length=length) if beam == 1 else BeamConfig(size=beam, n_best=best, length=length)
        return [[list(each.tokens) for each in found] for found in search(model, source_BS, config)]

    return decode


def hugging_face(folder: Path, threads: int) -> Decode:
    """`generate` with the settings of the exported folder, and the same 20 positions."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    torch.set_num_threads(threads)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "huggingface").eval()

    def decode(sentences: list[list[int]], beam: int, best: int) -> list[list[list[int]]]:
        source_BS = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in sentences], batch_first=True)
        length = {"min_new_tokens": LENGTH - 1, "max_new_tokens": LENGTH, "max_length": None}
        found = model.generate(
            source_BS, attention_mask=(source_BS != 0).long(), num_beams=beam, num_return_sequences=best, **length
        )
        return found[:, 1:LENGTH].view(len(sentences), best, -1).tolist()

    return decode


def ctranslate2(folder: Path, threads: int) -> Decode:
    """Its 20 positions are 20 tokens: it forces no end. Where outputs are compared it makes 19."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    from ctranslate2 import Translator

    translator = Translator(str(folder / "ctranslate2"), intra_threads=threads, inter_threads=1)
    pieces = json.loads((folder / "ctranslate2" / "shared_vocabulary.json").read_text())
    ids = {piece: index for index, piece in enumerate(pieces)}

    def decode(sentences: list[list[int]], beam: int, best: int) -> list[list[list[int]]]:
        length = LENGTH - 1 if best == beam else LENGTH
        found = translator.translate_batch(
            [[pieces[index] for index in sentence[:-1]] for sentence in sentences],  # it adds the end of sentence
            beam_size=beam,
            num_hypotheses=best,
            min_decoding_length=length,
            max_decoding_length=length,
            suppress_sequences=[["<pad>"], ["<s>"]],
        )
        return [[[ids[piece] for piece in hypothesis] for hypothesis in each.hypotheses] for each in found]

    return decode


def peak_megabytes() -> float:
    """The most that was resident in this process, in units of 10^6 bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Warm up, and time each cell; afterwards, if asked to, the outputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["footplate", "hugging_face", "ctranslate2"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--passes", type=int, required=True, help="how often each cell is timed")
    parser.add_argument("--outputs", action="store_true")
    options = parser.parse_args()
    sentences = json.loads((options.folder / "sentences.json").read_text())
    decode: Decode = globals()[options.side](options.folder, options.threads)
    loaded = peak_megabytes()
    rates = []
    for beam, batch in CELLS:
        batches = [sentences] if batch == len(sentences) else [[each] for each in sentences[:16]]
        decode(batches[0], beam, 1)
        began = time.perf_counter()
        for _ in range(options.passes):
            for some in batches:
                decode(some, beam, 1)
        rates.append(options.passes * sum(map(len, batches)) / (time.perf_counter() - began))
    found: dict[str, object] = {"rates": rates, "loaded": loaded, "peak": peak_megabytes()}
    if options.outputs:
        found["outputs"] = [decode(sentences, beam, beam) for beam in (5, 1)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
