"""The planner's loops in plain transformers: no cache, no batch, the whole vocabulary, a sort for every token.

Nothing here imports `acestep_models`. A song takes one uniform number a sampled token from
`torch.Generator("cpu").manual_seed(seed)`, looked up in the cumulated probabilities in the order of the ids.
"""

from __future__ import annotations

import torch
import transformers


def plain_model(config, state):
    """transformers' Qwen3 with tied embeddings over the weights `state` (names without `model.`)."""
    sizes = {name: getattr(config, name) for name in config.__dataclass_fields__}
    given = transformers.Qwen3Config(
        **sizes, max_position_embeddings=8192, tie_word_embeddings=True, attn_implementation="eager"
    )
    model = transformers.Qwen3ForCausalLM(given).eval()
    model.model.load_state_dict(state, strict=True)
    model.tie_weights()
    return model.requires_grad_(False)


def logits_after(model, ids):
    """Of every token of the vocabulary behind `ids`, [V]; the whole text is read again."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


def draw(logits, uniform, *, temperature=0.85, top_p=0.9, top_k=0, min_p=0.0):
    """logits [V] and a number -> an index, in float64 with a full sort; equal logits stay or go together."""
    logits = logits.double()
    if temperature == 0:
        return int(logits.argmax())
    weight = torch.softmax(logits / temperature, dim=0)
    if 0 < top_k < len(weight):
        weight = weight * (logits >= logits.sort(descending=True).values[top_k - 1])
    weight = weight * (weight >= min_p * weight.max())
    if top_p < 1:
        order = logits.argsort(descending=True)
        reached = (weight[order].cumsum(0) >= top_p * weight.sum()).nonzero()
        last = logits[order[reached[0, 0] if len(reached) else -1]]
        weight = weight * (logits >= last)
    ends = weight.cumsum(0)
    return min(int((ends <= uniform * ends[-1]).sum()), int(weight.nonzero().max()))


def plain_codes(model, prompt, negative, codes, seed, words, guidance=2.0, **sampling):
    """`codes` codes of one song; `words` = (first code, how many codes)."""
    first, count = words
    source = torch.Generator("cpu").manual_seed(seed)
    texts = [list(prompt)] if negative is None else [list(prompt), list(negative)]
    written = []
    for _ in range(codes):
        rows = [logits_after(model, ids) for ids in texts]
        logits = rows[0] if len(rows) == 1 else rows[1] + guidance * (rows[0] - rows[1])
        masked = torch.full_like(logits, -torch.inf)
        masked[first : first + count] = logits[first : first + count]
        token = draw(masked, torch.rand(1, generator=source).item(), **sampling)
        texts = [[*ids, token] for ids in texts]
        written.append(token - first)
    return tuple(written)


def plain_text(model, prompt, next_set, seed, limit, **sampling):
    """The ids behind `prompt`: `next_set(written)` says which ids may come next, None that the text is over.

    One id is certain and takes no number.
    """
    source = torch.Generator("cpu").manual_seed(seed)
    written = []
    while len(written) < limit and (allowed := next_set(written)) is not None:
        if len(allowed) == 1:
            written.append(allowed[0])
            continue
        logits = logits_after(model, [*prompt, *written])
        masked = torch.full_like(logits, -torch.inf)
        masked[allowed] = logits[allowed]
        written.append(draw(masked, torch.rand(1, generator=source).item(), **sampling))
    return written
