"""One head ablated in every way, and what each does to the loss on repeated tokens (nats, 95% interval over prompts).

Run it with a model and a head of your own:  python examples/every_ablation.py zoo:induction-2l 0.3
"""

import sys

import headscope as hs
from headscope.interventions import pattern_preserving, value_preserving
from headscope.measures import interval
from headscope.sweeps import evaluate

name, written = sys.argv[1:] if len(sys.argv) == 3 else ("zoo:induction-2l", "0.3")
model, head = hs.load(name), hs.Head.parse(written)
keys_after = [("k", layer) for layer in range(head.layer + 1, model.n_layers)]

prompts = hs.tasks.repeated_tokens(model, length=12, repeats=3, n=20, seed=0)
# What the head does where nothing repeats: a mean over the same task would contain the task.
other = hs.tasks.without_repeats(model, prompts, seed=1)

ways = {
    "its output is zero": [hs.zero(head)],
    "half of it is": [hs.zero(head, strength=0.5)],
    "its mean on other prompts": [hs.mean(head, over=other)],
    "its output on another prompt": [hs.resample(head, over=other)],
    "it looks at the first token": [hs.to_bos(head)],
    "it looks two tokens back": [hs.fixed_offset(head, 2)],
    "one key less for each query": [hs.knock_out(head, "all", "all", edges=1)],
    "zero, all patterns kept": pattern_preserving(hs.zero(head)),
    "zero, for later patterns alone": value_preserving(hs.zero(head)),
    "zero, for later keys alone": [hs.path_patch(hs.zero(head), keys_after)] if keys_after else [],
}
measure = hs.measures.loss("predictable")
(clean,) = evaluate(model, prompts, [measure])
print(f"{name}, head {head}: loss {clean.mean():.2f} nats on predictable tokens")
for way, ablation in ways.items():
    (changed,) = evaluate(model, prompts, [measure], ablation)
    rise = interval(measure.damage(clean, changed).numpy())
    print(f"  {way:31}{float(rise.mean):+6.2f} [{float(rise.low):+.2f}, {float(rise.high):+.2f}]")
