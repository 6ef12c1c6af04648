"""Compares towers and weights files with open_clip (and with Hugging Face's CLIP where transformers is there).

    python compare.py FEATURES_PROGRAM FOLDER

Random weights that open_clip writes must give the same unit features here to 1e-5, and ours there. Prints one line a check and
"N passed, N failed, N skipped" at the end. No network: nothing is downloaded.
"""
import json
import os
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
import open_clip  # noqa: E402
from open_clip.model import CLIP, resize_pos_embed  # noqa: E402

PROGRAM, FOLDER = sys.argv[1], sys.argv[2]
LIMIT = 1e-5
COUNTS = {"passed": 0, "failed": 0, "skipped": 0}

MODELS = {
    "small": dict(
        embed_dim=20, quick_gelu=False,
        vision_cfg=dict(image_size=32, layers=3, width=48, patch_size=8, head_width=16),
        text_cfg=dict(context_length=16, vocab_size=97, width=40, heads=4, layers=2)),
    "small-quickgelu": dict(
        embed_dim=12, quick_gelu=True,
        vision_cfg=dict(image_size=48, layers=2, width=64, patch_size=16, head_width=64, mlp_ratio=3.0),
        text_cfg=dict(context_length=11, vocab_size=61, width=32, heads=2, layers=3)),
    "ViT-B-32": None,
}


def path(name):
    return os.path.join(FOLDER, name)


def verdict(name, error, limit=LIMIT):
    good = error <= limit
    COUNTS["passed" if good else "failed"] += 1
    print(f"{'ok  ' if good else 'FAIL'}  {name}: {error:.2g} (limit {limit:g})")


def skip(name, reason):
    COUNTS["skipped"] += 1
    print(f"skipped: {name}: {reason}")


def our_spec(name, config):
    """The model in our terms: a preset by its name, other sizes spelt out."""
    if config is None:
        return dict(preset=name)
    see, read = config["vision_cfg"], config["text_cfg"]
    activation = "quick_gelu" if config["quick_gelu"] else "gelu"
    return dict(
        embed_dim=config["embed_dim"],
        image=dict(image_size=see["image_size"], patch=see["patch_size"], width=see["width"], layers=see["layers"],
                   heads=see["width"] // see["head_width"], mlp_width=int(see["width"] * see.get("mlp_ratio", 4)),
                   activation=activation),
        text=dict(context=read["context_length"], vocabulary=read["vocab_size"], width=read["width"],
                  heads=read["heads"], layers=read["layers"], activation=activation))


def make(name, config):
    torch.manual_seed(3)
    model = CLIP(**config) if config else open_clip.create_model(name, pretrained=None)
    with torch.no_grad():  # nothing may hide behind the zeros and ones of fresh biases and norms
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def make_inputs(model, count=4):
    side = model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    context, vocabulary = model.context_length, model.vocab_size
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(count, 3, side, side, generator=generator)
    tokens = torch.zeros(count, context, dtype=torch.long)
    for row in range(count):
        length = context if row == 0 else 2 + (5 * row) % (context - 2)
        tokens[row, :length] = torch.randint(1, vocabulary - 2, (length,), generator=generator)
        tokens[row, 0], tokens[row, length - 1] = vocabulary - 2, vocabulary - 1
    return image, tokens


def features_of(model, image, tokens):
    with torch.no_grad():
        return dict(image_features=model.encode_image(image, normalize=True),
                    text_features=model.encode_text(tokens, normalize=True))


def ours(spec, weights, image, tokens, export=None):
    with open(path("model.json"), "w") as file:
        json.dump(spec, file)
    save_file(dict(image=image, tokens=tokens.float()), path("inputs.safetensors"))
    command = [PROGRAM, path("model.json"), weights, path("inputs.safetensors"), path("outputs.safetensors")]
    subprocess.run(command + ([export] if export else []), check=True, stdout=subprocess.DEVNULL)
    return load_file(path("outputs.safetensors"))


def distance(a, b):
    gaps = [(a[key] - b[key]).abs().flatten() for key in ("image_features", "text_features")]
    return torch.cat(gaps).max().item()


def write(model, name, dtype=torch.float32):
    save_file({key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}, path(name))
    return path(name)


def compare(name, config):
    spec, theirs = our_spec(name, config), make(name, config)
    image, tokens = make_inputs(theirs)
    wanted = features_of(theirs, image, tokens)
    got = ours(spec, write(theirs, "theirs.safetensors"), image, tokens, path("ours"))
    verdict(f"{name}: their weights here", distance(got, wanted))
    same = load_file(path("ours.safetensors"))
    state = theirs.state_dict()
    gaps = [(same[key] - state[key]).abs().flatten() for key in state]
    verdict(f"{name}: written again, every tensor", torch.cat(gaps).max().item(), 0)
    # our initial weights there, in a model built from the file beside them
    got = ours(spec, "fresh", image, tokens, path("fresh"))
    with open(path("fresh.json")) as file:
        described = json.load(file)
    fresh = CLIP(**described["model_cfg"]).eval()
    fresh.load_state_dict(load_file(path("fresh.safetensors")), strict=True)
    verdict(f"{name}: our weights there", distance(got, features_of(fresh, image, tokens)))
    return theirs, image, tokens, wanted


def compare_types(theirs, spec, image, tokens):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        file = write(theirs, "typed.safetensors", dtype)
        rounded = make("small", MODELS["small"])
        rounded.load_state_dict({key: value.float() for key, value in load_file(file).items()})
        got = ours(spec, file, image, tokens)
        verdict(f"small: {dtype} weights", distance(got, features_of(rounded, image, tokens)))


def compare_sizes(theirs):
    """Position tables of another image size, as open_clip resamples them."""
    for side in (48, 24):
        config = json.loads(json.dumps(MODELS["small"]))
        config["vision_cfg"]["image_size"] = side
        model = make("small", config)
        state = dict(theirs.state_dict())
        resize_pos_embed(state, model)
        model.load_state_dict(state)
        image, tokens = make_inputs(model)
        got = ours(our_spec("small", config), write(theirs, "theirs.safetensors"), image, tokens)
        verdict(f"small: positions of 32 pixels at {side}", distance(got, features_of(model, image, tokens)))


def compare_hugging_face(config, wanted, image, tokens):
    name = "small: Hugging Face's names"
    try:
        from transformers import CLIPConfig, CLIPModel
    except ImportError:
        skip(name, "this Python has no transformers")
        return
    see, read = config["vision_cfg"], config["text_cfg"]
    shared = dict(hidden_act="quick_gelu" if config["quick_gelu"] else "gelu", projection_dim=config["embed_dim"])
    model = CLIPModel(CLIPConfig(
        projection_dim=config["embed_dim"],
        vision_config=dict(image_size=see["image_size"], patch_size=see["patch_size"], hidden_size=see["width"],
                           num_hidden_layers=see["layers"], num_attention_heads=see["width"] // see["head_width"],
                           intermediate_size=4 * see["width"], **shared),
        text_config=dict(vocab_size=read["vocab_size"], hidden_size=read["width"], num_hidden_layers=read["layers"],
                         num_attention_heads=read["heads"], intermediate_size=4 * read["width"],
                         max_position_embeddings=read["context_length"], eos_token_id=read["vocab_size"] - 1,
                         bos_token_id=read["vocab_size"] - 2, pad_token_id=0, **shared))).eval()

    def theirs():
        with torch.no_grad():
            out = model(input_ids=tokens, pixel_values=image)
        return dict(image_features=out.image_embeds, text_features=out.text_embeds)

    ours(our_spec("small", config), path("small.safetensors"), image, tokens, path("small"))
    found = model.load_state_dict(load_file(path("small-hf.safetensors")), strict=False)
    lost = [key for key in found.missing_keys if not key.endswith("position_ids")] + found.unexpected_keys
    verdict(name + ", our file there: names that differ", len(lost), 0)
    verdict(name + ", our file there", distance(theirs(), wanted))
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path("hf.safetensors"))
    verdict(name + ", their file here", distance(ours(our_spec("small", config), path("hf.safetensors"), image, tokens), theirs()))


def main():
    print(f"open_clip {open_clip.__version__}, PyTorch {torch.__version__}")
    for name, config in MODELS.items():
        theirs, image, tokens, wanted = compare(name, config)
        if name == "small":
            write(theirs, "small.safetensors")
            compare_types(theirs, our_spec(name, config), image, tokens)
            compare_sizes(theirs)
            compare_hugging_face(config, wanted, image, tokens)
    print(", ".join(f"{COUNTS[key]} {key}" for key in ("passed", "failed", "skipped")))
    return 0 if COUNTS["failed"] == 0 and COUNTS["passed"] > 0 else 1


sys.exit(main())
