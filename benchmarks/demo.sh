#!/bin/sh
# `make demo`: a translator and an agent, each trained on a local Ray by one recipe.
set -eu
footplate=.venv/bin/footplate
runs=runs/demo
rm -rf "$runs"

echo "1/2  A translator: commands in English -> actions (SCAN), a small Transformer"
$footplate train scan-transformer --on ray --runs "$runs" --name translator updates=4000
echo
echo "     What it says to sentences of its language (footplate translate):"
printf '%s\n' 'jump twice' 'walk around left and run' 'look opposite right thrice after turn left' |
    $footplate translate translator --runs "$runs" --beam 5 | sed 's/^/     -> /'

echo
echo "2/2  An agent: CartPole, advantage actor-critic with parallel environments (PAAC)"
$footplate train cartpole-paac --on ray --runs "$runs" --name agent
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
