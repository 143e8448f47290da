"""Mistakes in the file of captioned pictures: what stands in it, what a person wrote instead, and what is told.

An empty text for what stands in it: the whole file. Told are line and column, and parts of the sentence.
"""

FILE = """\
name: pictures
files: [pictures/*.png]
columns: {image: file_name, caption: text}
num_shards: 2
background: "#ffffff"
rules: {width_min: 32, height_min: 32, aspect_max: 3, contrast_min: 4}
captions: {words_min: 2}
duplicates: {hash_distance_max: 44, colour_distance_max: 16}
resize: {form: buckets, pixels: 256, step: 64, encode: jpeg, quality: 90}
split_by: caption
heldout_share: 0.02
"""
MISTAKES = [
    ("[pictures/*.png]", "[]", "2:8", "files must list at least one glob … got an empty list"),
    ("[pictures/*.png]", "['']", "2:9", "files[0] must be a glob … empty text"),
    ("[pictures/*.png]", "['{shards}/*.png']", "2:9", "files[0] may hold {shard} … got {shards}"),
    ("[pictures/*.png]", "['s3://bucket/*.png']", "2:9", "files[0] must be files on a local disk … s3://bucket/*.png"),
    ("[pictures/*.png]", "[picture/*.png]", "2:9", "files[0] matches no file … nearest name there is pictures"),
    ("[pictures/*.png]", "[notes/*.md]", "2:9", "files[0] matches no file"),
    ("[pictures/*.png]", "[pictures/*.heic]", "2:", "photo.heic does not tell by its name what it holds, wanted .avif"),
    ("[pictures/*.png]", "['{shard}/*.png']", "2:9", "files[0] matches no file for 2 of 2 shards"),
    ("[pictures/*.png]", "[pictures/bad/*.png]", "2:", "1 of the first 1 cannot be used … is HTML and no picture"),
    ("[pictures/*.png]", "[pictures/bare/*.png]", "3:", "1 of the first 1 have no caption"),
    ("[pictures/*.png]", "[pictures/*.jsonl]", "3:", "20 of the first 20 cannot be used … missing column"),
    ("files: [", "file: [", "2:1", "unknown key 'file'; did you mean 'files'?"),
    ("image: file_name, ", "", "3:10", "columns must map image and caption … got ['caption']"),
    ("image: file_name", "picture: file_name", "3:10", "columns must map image and caption … 'picture'"),
    ("caption: text", "caption: file_name", "3:10", "columns must map image and caption to two columns … 'file_name'"),
    ("num_shards: 2", "num_shards: 0", "4:13", "num_shards must be from 1 to 100,000, got 0"),
    ('"#ffffff"', "white", "5:13", "background must be a colour such as '#ffffff', got 'white'"),
    ('"#ffffff"', "#ffffff", "5:12", "background must be a string, got None"),
    ("width_min: 32", "width_min: 0", "6:20", "rules: width_min must be null or at least 1, got 0"),
    ("aspect_max: 3", "aspect_max: 0.5", "6:52", "rules: aspect_max must be null or at least 1, got 0.5"),
    ("contrast_min: 4", "contrast_min: 400", "6:69", "contrast_min must be null or between 0 and 127, got 400"),
    ("contrast_min: 4", "animated: keep", "6:65", "rules: animated must be one of drop, first_frame, got 'keep'"),
    ("contrast_min: 4", "blank: true", "6:55", "rules has an unknown key 'blank'"),
    ("words_min: 2", "words_min: -2", "7:23", "captions: words_min must be null or at least 0, got -2"),
    ("words_min: 2", "set: shorts", "7:17", "captions: set must be one of … short … got 'shorts'"),
    ("{words_min: 2}", "short", "7:11", "captions must be a mapping of keys to values, got 'short'"),
    ("hash_distance_max: 44", "hash_distance_max: 256", "8:33", "hash_distance_max must be between 0 and 96, got 256"),
    ("colour_distance_max: 16", "captions: ignore", "8:47", "captions must be one of ignored, compared, got 'ignore'"),
    ("form: buckets", "form: square", "9:16", "resize: form must be one of fit, crop, buckets, got 'square'"),
    ("pixels: 256", "pixels: 250", "9:33", "pixels must be a multiple of step … got 250 and 64"),
    ("pixels: 256", "pixels: 8", "9:33", "resize: pixels must be between 16 and 4,096, got 8"),
    ("encode: jpeg", "encode: jpg", "9:56", "resize: encode must be one of jpeg, png, webp, got 'jpg'"),
    ("quality: 90", "quality: 0", "9:71", "resize: quality must be between 1 and 100, got 0"),
    ("split_by: caption", "split_by: term", "10:11", "split_by must be one of caption, picture, got 'term'"),
    ("heldout_share: 0.02", "heldout_share: 0", "11:16", "heldout_share must be above 0 and at most 0.5, got 0"),
    (
        "heldout_share: 0.02",
        "decode_pixels_max: 1000000000",
        "11:20",
        "decode_pixels_max must be between 1 and 178,956,970 … attack on memory … got 1000000000",
    ),
    ("heldout_share: 0.02", "prompt: {user: x}", "11:1", "unknown key 'prompt'"),
    ("name: pictures", "name: My Pictures", "1:7", "name must be lower-case letters … got 'My Pictures'"),
]
