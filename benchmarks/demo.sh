#!/bin/sh
# `make demo`: a translator and an agent, each trained on a local Ray by one recipe.
# Words given here are said to both `footplate train` instead: `sh benchmarks/demo.sh --debug` goes through it in seconds.
set -eu
footplate=.venv/bin/footplate
translator='--on ray updates=4000' agent='--on ray'
if [ $# -gt 0 ]; then
    translator="$*" agent="$*"
fi
runs=runs/demo number=1
while [ -e "$runs" ]; do # what is there may have been trained further since
    number=$((number + 1))
    runs=runs/demo-$number
done

echo "1/2  A translator: commands in English -> actions (SCAN), a small Transformer"
$footplate train scan-transformer $translator --runs "$runs" --name translator
sentences=$runs/sentences.txt
translations=$runs/translations.txt
printf '%s\n' 'jump twice' 'walk around left and run' 'look opposite right thrice after turn left' >"$sentences"
# Not a pipe, whose status would be that of its last command alone.
$footplate translate translator --runs "$runs" --beam 5 <"$sentences" >"$translations"
echo
echo "     What it says to sentences of its language (footplate translate):"
paste -d '\n' "$sentences" "$translations" | sed 's/^/     /; n; s/^/       -> /'

echo
echo "2/2  An agent: CartPole, advantage actor-critic with parallel environments (PAAC)"
$footplate train cartpole-paac $agent --runs "$runs" --name agent
echo
$footplate play agent --runs "$runs" --episodes 3

echo
$footplate runs --runs "$runs"
cat <<END
Next:
  footplate show translator --runs $runs        the curves, as a picture
  footplate play agent --runs $runs --video cartpole.mp4
  footplate recipes                             what else trains by name
  footplate train catch-paac --debug            the same loop under a debugger
(the program is $footplate; \`. .venv/bin/activate\` shortens that)
END
