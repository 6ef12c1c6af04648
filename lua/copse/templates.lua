-- Built-in sets of templates: the sentences around a class name ("{}") in zero-shot classification. A job names a set, or gives
-- a list of its own. Where a set has `of`, an evaluation whose name is a key of it (letter case and what stands between the words do
-- not count: "Cow Breed", Cow_Breed, cow-breed) takes that one sentence, and others the list.
local templates = {}

templates.plain = { "a photo of a {}." }

-- The class name alone: where it is a sentence already, or a taxonomic name.
templates.bare = { "{}" }

templates["remote-sensing"] = {
  "an aerial photograph of {}.",
  "an aerial photograph of a {}.",
  "a satellite photo of {}.",
  "a satellite photo of a {}.",
  "a centered satellite photo of {}.",
  "an overhead view of {}.",
}

templates.plants = {
  "a photo of {}.",
  "a photo of a {}.",
  "a close-up of {}.",
  "a close-up photo of a {}.",
  "a leaf of {}.",
}

templates.species = {
  "a photo of {}.",
  "a photo of a {}.",
  "a wildlife photo of {}.",
  "a field photo of {}.",
}

templates.product = {
  "a photo of a {}.",
  "a product photo of a {}.",
  "a picture of a {} on a white background.",
}

-- The 80 sentences published with CLIP for ImageNet (Radford et al. 2021).
templates.imagenet = {
  "a bad photo of a {}.", "a photo of many {}.", "a sculpture of a {}.", "a photo of the hard to see {}.",
  "a low resolution photo of the {}.", "a rendering of a {}.", "graffiti of a {}.", "a bad photo of the {}.",
  "a cropped photo of the {}.", "a tattoo of a {}.", "the embroidered {}.", "a photo of a hard to see {}.",
  "a bright photo of a {}.", "a photo of a clean {}.", "a photo of a dirty {}.", "a dark photo of the {}.",
  "a drawing of a {}.", "a photo of my {}.", "the plastic {}.", "a photo of the cool {}.",
  "a close-up photo of a {}.", "a black and white photo of the {}.", "a painting of the {}.", "a painting of a {}.",
  "a pixelated photo of the {}.", "a sculpture of the {}.", "a bright photo of the {}.", "a cropped photo of a {}.",
  "a plastic {}.", "a photo of the dirty {}.", "a jpeg corrupted photo of a {}.", "a blurry photo of the {}.",
  "a photo of the {}.", "a good photo of the {}.", "a rendering of the {}.", "a {} in a video game.",
  "a photo of one {}.", "a doodle of a {}.", "a close-up photo of the {}.", "a photo of a {}.",
  "the origami {}.", "the {} in a video game.", "a sketch of a {}.", "a doodle of the {}.",
  "a origami {}.", "a low resolution photo of a {}.", "the toy {}.", "a rendition of the {}.",
  "a photo of the clean {}.", "a photo of a large {}.", "a rendition of a {}.", "a photo of a nice {}.",
  "a photo of a weird {}.", "a blurry photo of a {}.", "a cartoon {}.", "art of a {}.",
  "a sketch of the {}.", "a embroidered {}.", "a pixelated photo of a {}.", "itap of the {}.",
  "a jpeg corrupted photo of the {}.", "a good photo of a {}.", "a plushie {}.", "a photo of the nice {}.",
  "a photo of the small {}.", "a photo of the weird {}.", "the cartoon {}.", "art of the {}.",
  "a drawing of the {}.", "a photo of the large {}.", "a black and white photo of a {}.", "the plushie {}.",
  "a dark photo of a {}.", "itap of a {}.", "graffiti of the {}.", "a toy {}.",
  "itap of my {}.", "a photo of a cool {}.", "a photo of a small {}.", "a tattoo of the {}.",
}

-- BioCLIP's evaluation puts one in front of them (Stevens et al. 2024); its published text embeddings are of the 80.
templates.bioclip = { "a photo of {}.", table.unpack(templates.imagenet) }

-- One for each evaluation set of AgriCLIP (Nawaz et al. 2025), as its code has them, the sets' names included. Class names are
-- those of the sets' folders, as they stand.
templates.agriclip = {
  "a photo of {}",
  of = {
    ["acquarium-fish"] = "a fish type of {} specie",
    ["animal-2"] = "a photo with {}",
    ["banana-deficiency"] = "a photo contain {} deficiency",
    ["bean-lesion"] = "a photo contain {} leaf type",
    ["chicken-fecus"] = "a photo contain {}",
    cid = "Image of cattle named {}",
    ["citrus-fruits"] = "a photo of fruit contain {}",
    ["citrus-leaves"] = "a photo contain {} symptoms",
    ["cow-breed"] = "a photo contain {} cow",
    deepfish = "a photo contain {} type under acquarium",
    ["fish-freshness"] = "a type of fish named {}",
    ["fish-species"] = "Image contain {} fish type",
    ["fruits-diseases"] = "a photo contain {} leaf",
    ["horse-breed"] = "a photo contain {}",
    ["supermarket-fish"] = "a fish type with {}",
    ["soybean-weeds"] = "a photo contain {} weed", -- in its history only
  },
}

-- The wordings that its comparison with stock CLIP used for the same sets: part of a published gap may be the choice of words.
templates["agriclip-baseline"] = {
  "a photo of {}",
  of = {
    ["banana-deficiency"] = "a photo of a {} deficient leaf",
    ["soybean-weeds"] = "a photo of {} weed",
    ["yellow-rust"] = "a photo of yellow rust leaf with {} disease",
  },
}

return templates
