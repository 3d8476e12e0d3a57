"""What a user may mistype, misplace or damage: one line that says where, what and what to do, and exit code 2."""

import sys
from pathlib import Path

import pytest

from footplate.cli import main

RIGHT = b"task: translation\nupdates: 1\ncorpus: {kind: copy}\nevaluate: {every_updates: 1}\n"
FILES: dict[str, bytes] = {
    "empty.yaml": b"",
    "comment.yaml": b"# later\n",
    "tab.yaml": b"task: translation\n\tseed: 3\n",
    "latin.yaml": b"task: translation\nabout: caf\xe9\n",
    "binary.yaml": b"\x7fELF\x02\x01\x00",
    "twice.yaml": RIGHT + b"seed: 1\nseed: 2\n",
    "merged.yaml": RIGHT + b"optimizer: &a {kind: adam}\nupdate:\n  <<: *a\n",
    "endless.yaml": b"a: &a [*a]\n",
    "bomb.yaml": b"a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
    b"e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
    "deep.yaml": b"a: " + b"[" * 3000 + b"]" * 3000 + b"\n",
    "other.yaml": b"task: translation\nenvironment: {kind: gymnasium, id: CartPole-v1}\nupdates: 3\n"
    b"corpus: {kind: copy}\nevaluate: {every_updates: 1}\n",
    "file": b"",
    "en.txt": b"a\n",
}
LONG = "x" * 300
HELP = "`footplate {} --help` says what there is"

MISTAKES = {
    # the command line itself
    "trane copy-transformer": "command line: no such command 'trane'. Did you mean 'train', 'translate'? "
    "`footplate --help` says what there is",
    "train": f"command line: missing argument 'recipe'; {HELP.format('train')}",
    "train copy-transformer --wokers 2": "command line: no such option: --wokers (Possible options: --workers); "
    f"{HELP.format('train')}",
    "resume one two": f"command line: got unexpected extra argument(s) (two); {HELP.format('resume')}",
    # the recipe as a file
    "train copy-transfomer": "recipe 'copy-transfomer': unknown; did you mean copy-transformer? "
    "`footplate recipes` lists the names, and a path to a .yaml file will do",
    "train nowhere.yaml": "nowhere.yaml: no such file; `footplate recipes` lists the recipes that can be given by name",
    "train ./folder": "folder: is a folder; give the path of a YAML file",
    "train empty.yaml": "empty.yaml: is empty; a recipe names at least its task, such as task: translation",
    "train comment.yaml": "comment.yaml: is empty; a recipe names at least its task, such as task: translation",
    "train tab.yaml": "tab.yaml:2: not valid YAML (a tab); indent with spaces",
    "train latin.yaml": "latin.yaml:2: not UTF-8 (byte 0xe9); save the file as UTF-8",
    "train binary.yaml": "binary.yaml:1: not valid YAML (the character '\\x7f'); remove it",
    "train twice.yaml": "twice.yaml:6: seed: given twice (first in line 5); remove one",
    "train merged.yaml": "merged.yaml:7: update.<<: merge keys are not read; write the keys out",
    "train endless.yaml": "endless.yaml:1: nested more than 50 levels deep; make it flatter",
    "train bomb.yaml": "bomb.yaml:1: more than 100,000 values; write fewer, or use fewer aliases",
    "train deep.yaml": "deep.yaml:1: nested more than 50 levels deep; make it flatter",
    "train other.yaml": "other.yaml:2: environment: unknown key; known here: updates, corpus, ...",
    # overrides
    "train copy-transformer seed": "command line: 'seed': expected key=value, such as seed=2",
    "train copy-transformer =": "command line: '=': expected key=value, such as seed=2",
    "train copy-transformer seed=": "command line: seed: expected a whole number, got null",
    "train copy-transformer updates=-3": "command line: updates: must be at least 1, got -3",
    "train copy-transformer updates=9999999999999999999": "command line: updates: too large; "
    "whole numbers end at 9223372036854775807",
    "train copy-transformer optimizer.learning_rate=.nan": "command line: optimizer.learning_rate: "
    "must be a finite number, got nan",
    "train copy-transformer optimizer.learning_rate=1e999": "command line: optimizer.learning_rate: "
    "must be a finite number, got inf",
    **{
        f"train {recipe} {key}={value}": f"command line: {key}: must be at most {most}, got {got}"
        for recipe, key, value, most, got in (
            ("copy-transformer", "threads", "9999999999", "1024", "9999999999"),
            ("copy-transformer", "threads", "1025", "1024", "1025"),
            ("catch-paac", "acting_threads", "100000", "1024", "100000"),
            ("catch-ppo", "acting_threads", "100000", "1024", "100000"),
            ("pong-dqn", "environment.threads", "2147483647", "1024", "2147483647"),
            ("pong-dqn", "environment.timeout_seconds", "1e7", "1000000", "10000000.0"),
            ("copy-transformer", "faults.timeout_seconds", "1e300", "1000000", "1e+300"),
            ("copy-transformer", "corpus.longest", "9223372036854775807", "1000000", "9223372036854775807"),
            ("copy-transformer", "update.clip_value", "1e300", "3.4e+38", "1e+300"),
            ("copy-transformer", "optimizer.weight_decay", "1e300", "3.4e+38", "1e+300"),
            ("catch-ppo", "clip_values", "1e300", "3.4e+38", "1e+300"),
        )
    },
    "train catch-paac steps=3": "command line: steps: 3 pays for no update, each takes environments * rollout_steps = "
    "80; use at least as many",
    # where runs lie
    "train copy-transformer --name a/b": "--name: 'a/b' is not a plain folder name; "
    "choose one without slashes, control characters or a leading dot",
    "train copy-transformer --name ..": "--name: '..' is not a plain folder name; "
    "choose one without slashes, control characters or a leading dot",
    "train copy-transformer --runs file": "file/copy-transformer: cannot be made (Not a directory); "
    "choose another folder with --runs",
    # runs that are none
    **{
        f"{command} folder": "folder: no such run under runs (and no such folder with a job.yaml); "
        "`footplate runs` lists them"
        for command in ("resume", "evaluate", "show", "translate", "play")
    },
    "evaluate blank": "{here}/runs/blank: has no checkpoint that can be read; train it further first",
    "translate blank": "{here}/runs/blank: has no checkpoint that can be read; train it further first",
    "show blank": "{here}/runs/blank/metrics.jsonl: has no rows yet; wait for the first update, "
    "or see log.txt for what went wrong",
    "play blank": "{here}/runs/blank: has no checkpoint that can be read; train it further first",
    "translate agent": "translate: a run of the task paac translates nothing; name a run of translation",
    "evaluate blank optimizer.learning_rate=1": "optimizer.learning_rate: changes nothing once a run is trained; "
    "leave it out (evaluate, corpus, average, ema_decay, ensemble, report, seed, device, precision, threads, "
    "deterministic, debug can)",
    "translate blank batch_tokens=64": "batch_tokens: changes nothing once a run is trained; "
    "leave it out (evaluate, corpus, average, ema_decay, ensemble, report, seed, device, precision, threads, "
    "deterministic, debug can)",
    **{
        f"{command} {LONG}": f"{LONG}: no such run under runs (and no such folder with a job.yaml); "
        "`footplate runs` lists them"
        for command in ("resume", "evaluate", "show", "translate", "play")
    },
    f"runs --runs {LONG}": f"{LONG}: cannot be read (File name too long); "
    "make it readable, or choose another folder with --runs",
    "schema nothing": "schema: unknown task 'nothing'; choose one of ...",
    # text
    "train text.yaml": "{here}/train.de: cannot be opened (No such file or directory); "
    "set corpus.folder, relative to where the command runs",
    **{
        f"{command} text.yaml {setting}": f"{{here}}/{place}: cannot be opened ({reason}); "
        "set corpus.folder, relative to where the command runs"
        for command in ("train", "data stats", "data prepare")
        for setting, place, reason in (
            (f"corpus.source={LONG}", f"train.{LONG}", "File name too long"),
            (f"corpus.folder={LONG}", f"{LONG}/train.de", "File name too long"),
            ("corpus.folder=circle", "circle/train.de", "Too many levels of symbolic links"),
        )
    },
    "train text.yaml corpus.folder=words prepared=circle": "prepared: {here}/circle holds no corpus.json; "
    "make it with `footplate data prepare`",
    f"data prepare text.yaml corpus.folder=words --to {LONG}": f"{LONG}: the tokenised corpus cannot be written "
    "(File name too long); make its folder writable, or choose another folder with --to",
    "data prepare text.yaml corpus.folder=words --to file/new": "file/new: the tokenised corpus cannot be written "
    "(File exists); make its folder writable, or choose another folder with --to",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from footplate.job import load_job

    folder = tmp_path_factory.mktemp("here")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "words").mkdir()
    (folder / "circle").symlink_to("circle")
    for part in ("train", "valid"):
        for language in ("de", "en"):
            (folder / "words" / f"{part}.{language}").write_text("a b\n")
    (folder / "text.yaml").write_text(
        "task: translation\nupdates: 3\nevaluate: {every_updates: 3}\n"
        "corpus: {kind: parallel, source: de, target: en}\n"
    )
    for name, recipe in (("blank", "copy-transformer"), ("agent", "catch-paac")):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "job.yaml").write_text(load_job(recipe).to_yaml())
    return folder


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_exits_with_2(
    here: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", ["footplate", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    expected = "error: " + MISTAKES[command].replace("{here}", str(here))
    assert (ended.value.code, said.count("\n")) == (2, 1), said
    if expected.endswith("..."):  # a list that grows
        assert said.startswith(expected.removesuffix("..."))
    else:
        assert said == f"{expected}\n"
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["agent", "blank"], "no run is left behind"
