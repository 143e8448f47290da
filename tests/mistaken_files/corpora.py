"""Mistakes in the file of a corpus: what stands in it, what a person wrote instead, and what is told.

An empty text for what stands in it: the whole file. Told are line and column, and parts of the sentence.
"""

FILE = """\
name: notes
files: [notes/*.jsonl]
encoding: utf-8
columns: {term: title, text: body}
prompt: {user: "Explain {term}."}
completion: "{text}"
rules: {words_min: 2, words_max: 60, drop_matching: {links: "https?://"}}
sequence_length: 256
labels:
  judge: {model: m, engine: echo, question: "Is {text} good?", answers: [good, bad]}
  drop: [bad]
"""
MISTAKES = [
    ("[notes/*.jsonl]", "['']", "2:8", "files must list at least one glob, and no empty one … got ['']"),
    ("[notes/*.jsonl]", "[]", "2:8", "files must list at least one glob … got an empty list"),
    ("encoding: utf-8", "encoding: base64", "3:11", "encoding must be a text encoding … got 'base64'"),
    ("encoding: utf-8", "encoding: utf8mb4", "3:11", "encoding must be a text encoding … got 'utf8mb4'"),
    ("encoding: utf-8", "encoding: ''", "3:11", "encoding must be a text encoding … got ''"),
    ("term: title", "heading: title", "4:10", "columns must map document_id … got 'heading'"),
    ("term: title, ", "", "5:9", "prompt or completion uses {term} … columns does not map"),
    ("{term}", "{{term}}", "5:16", "use one pair of braces, {term} … got 'Explain {{term}}.'"),
    ("{term}", "{text}", "5:16", "user may use {term}, {category} … got {text}"),
    ('completion: "{text}"', 'completion: "{{text}}"', "6:13", "use one pair of braces, {text} … '{{text}}'"),
    ('completion: "{text}"', "completion: yes it is", "6:13", "completion must hold {text} … got 'yes it is'"),
    ("words_min: 2", "words_min: -2", "7:20", "rules: words_min must be null or at least 0 … got -2"),
    ("words_max: 60", "words_max: 1", "7:", "words_min must not exceed words_max … got 2 and 1"),
    ("words_max: 60", "mean_word_length_max: 0", "7:", "mean_word_length_max must be null or above 0 … got 0"),
    ("https?://", "http(", "7:", "drop_matching.links is not a regular expression … got 'http('"),
    ("https?://", "x*", "7:", "drop_matching.links matches every text … got 'x*'"),
    ("sequence_length: 256", "sequence_length: 0", "8:18", "sequence_length must be between 1 … got 0"),
    ("length: 256", "length: 1000000000", "8:18", "no model reads more … got 1000000000"),
    ("sequence_length:", "dropped_share_max: 90\nsequence_length:", "8:20", "between 0 and 1 … got 90"),
    ("sequence_length:", "duplicate_columns: [text, category]\nsequence_length:", "8:20", "'category' … columns"),
    ("Is {text} good?", "Is it good?", "10:", "question must hold {text} … got 'Is it good?'"),
    ("answers: [good, bad]", "answers: [good, Good]", "10:", "at least two different labels … 'Good'"),
    ("drop: [bad]", "drop: [poor]", "11:9", "drop has 'poor', which the judge never answers … 'bad'"),
    ("drop: [bad]", "kappa_min: 60", "11:14", "labels: kappa_min must be between -1 and 1 … got 60"),
    ("name: notes", "name: My Notes", "1:7", "name must be lower-case letters … got 'My Notes'"),
    ("[notes/*.jsonl]", "notes/*.jsonl", "2:8", "files must be a list … got 'notes/*.jsonl'"),
    ("[notes/*.jsonl]", "*.jsonl", "2:", "not readable as YAML"),
    ("[notes/*.jsonl]", "[note/*.jsonl]", "2:", "files[0] matches no file … note … nearest … notes"),
    ("[notes/*.jsonl]", "[notes]", "2:", "files[0] matches no file … notes is a directory … notes/*.jsonl"),
    ("[notes/*.jsonl]", "['notes/{shards}.jsonl']", "2:", "files[0] … {shards} … {shard}"),
    ("[notes/*.jsonl]", "['notes/{shard}.jsonl']", "2:", "matches no file for … shard-00"),
    ("[notes/*.jsonl]", "['~/notes/*.jsonl']", "2:", "files[0] … ~ … whole path"),
    ("[notes/*.jsonl]", "['s3://bucket/*.jsonl']", "2:", "files[0] … s3://bucket/*.jsonl … local"),
    ("[notes/*.jsonl]", "[notes/*.pdf]", "2:", "files[0] matches no file"),
    ("files: [", "file: [", "2:1", "unknown key 'file' … did you mean 'files'?"),
    ("encoding: utf-8", "encoding: utf-16", "3:11", "notes … cannot be read"),
    ("encoding: utf-8", "encoding: []", "3:11", "encoding must name at least one encoding … empty list"),
    ("encoding: utf-8", "format: json", "3:9", "format must be one of auto, jsonl … got 'json'"),
    ("encoding: utf-8", "format: csv", "4:", "columns.term … missing column 'title' … got '{\"title\""),
    ("encoding: utf-8", "delimiter: tab", "3:12", "delimiter must be one character … got 'tab'"),
    ("encoding: utf-8", "delimiter: ;", "3:12", "delimiter … CSV … got ';'"),
    ("encoding: utf-8", "num_shards: 0", "3:13", "num_shards must be from 1 to 100,000 … got 0"),
    ("encoding: utf-8", "num_shards: auto", "3:13", "num_shards must be a whole number … got 'auto'"),
    (
        "encoding: utf-8",
        "text_unit: sentence",
        "3:12",
        "text_unit must be one of line, paragraph, file … got 'sentence'",
    ),
    ("{term: title, text: body}", "{term: titel, text: body}", "4:", "missing column 'titel' … title"),
    (
        "{term: title, text: body}",
        "{title: term, body: text}",
        "4:",
        "columns must map document_id, term … got 'title'",
    ),
    ("{term: title, text: body}", "{term: title}", "4:", "columns must map 'text'"),
    ("{term: title, text: body}", "[title, body]", "4:10", "columns must be a mapping … got ['title', 'body']"),
    ("{term: title, text: body}", "{term: title, text: [body]}", "4:", "columns.text must be a string … got ['body']"),
    ("{term: title, text: body}", "{term: title, text: title}", "4:", "columns … 'title' … twice"),
    (
        'prompt: {user: "Explain {term}."}',
        'prompt: "Explain {term}."',
        "5:9",
        "prompt must be a mapping … got 'Explain {term}.'",
    ),
    ('prompt: {user: "Explain {term}."}\n', "", "1:", "lacks the key 'prompt'"),
    ("Explain {term}.", "Explain {title}.", "5:16", "user may use {term}, {category} … got {title}"),
    ('completion: "{text}"', 'completion: "{body}"', "6:13", "completion … {text} … got {body}"),
    ('completion: "{text}"', "completion: {text}", "6:13", "completion must be a string"),
    ("words_min: 2", "min_words: 2", "7:9", "unknown key 'min_words' … did you mean 'words_min'?"),
    ("words_min: 2", "letters_share_min: 50", "7:", "letters_share_min must be null or between 0 and 1 … got 50"),
    ("words_min: 2", "letters_share_min: 50%", "7:", "letters_share_min must be … got '50%'"),
    ('{links: "https?://"}', "[https?://]", "7:", "not readable as YAML"),
    (
        '{links: "https?://"}',
        '{"my links": "https?://"}',
        "7:",
        "drop_matching must be lower-case letters … got 'my links'",
    ),
    ("https?://", "^", "7:", "drop_matching.links matches every text … got '^'"),
    ("https?://", "(?<=x)y", "7:", "drop_matching.links is not a regular expression … got '(?<=x)y'"),
    (
        "sequence_length: 256",
        "sequence_length: 256 tokens",
        "8:18",
        "sequence_length must be a whole number … got '256 tokens'",
    ),
    ("sequence_length: 256", "seq_length: 256", "8:1", "unknown key 'seq_length' … did you mean 'sequence_length'?"),
    (
        "sequence_length:",
        "heldout_share: 2\nsequence_length:",
        "8:16",
        "heldout_share must be above 0 and at most 0.5 … got 2",
    ),
    (
        "sequence_length:",
        "heldout_share: 0\nsequence_length:",
        "8:16",
        "heldout_share must be above 0 and at most 0.5 … got 0",
    ),
    ("sequence_length:", "quarantine_share_max: 5\nsequence_length:", "8:23", "between 0 and 1 … got 5"),
    (
        "sequence_length:",
        "near_duplicates: true\nsequence_length:",
        "8:18",
        "near_duplicates must be a mapping … got True",
    ),
    (
        "sequence_length:",
        "near_duplicates: {jaccard: 80}\nsequence_length:",
        "8:",
        "jaccard must be between 0.5 and 1 … got 80",
    ),
    (
        "sequence_length:",
        "near_duplicates: {num_permutations: 100}\nsequence_length:",
        "8:",
        "num_permutations must be 64, 128 or 256 … got 100",
    ),
    (
        "sequence_length:",
        "duplicate_columns: text\nsequence_length:",
        "8:20",
        "duplicate_columns must be a list … got 'text'",
    ),
    (
        "sequence_length:",
        "duplicate_columns: [term]\nsequence_length:",
        "8:20",
        "duplicate_columns must hold 'text' … got ['term']",
    ),
    (
        "sequence_length:",
        "template_date: 26.11.2026\nsequence_length:",
        "8:16",
        "template_date must be … got '26.11.2026'",
    ),
    (
        "sequence_length:",
        "template_date: 2026-13-01\nsequence_length:",
        "8:16",
        "template_date must be … got '2026-13-01'",
    ),
    ("answers: [good, bad]", "answers: good", "10:", "answers must be a list … got 'good'"),
    ("answers: [good, bad]", "answers: [yes, no, 1]", "10:", "answers[2] must be a string … got 1"),
    ("engine: echo", "engine: {name: echo}", "10:", "engine must be a string … got {'name': 'echo'}"),
    ("engine: echo", "engine: openai", "10:", "No engine 'openai' is installed"),
    ("engine: echo", "engine: openai_http", "10:", "needs base_url and model"),
    ("drop: [bad]", "drop: bad", "11:9", "drop must be a list … got 'bad'"),
    ("  drop: [bad]", "  file: {path: labels.csv}\n  drop: [bad]", "11:", "labels.file.path is no file … labels.csv"),
    ("  drop: [bad]", "  file: labels.csv\n  drop: [bad]", "11:9", "file must be a mapping … got 'labels.csv'"),
    ("  drop: [bad]", "  kappa: 0.5\n  drop: [bad]", "11:3", "unknown key 'kappa' … did you mean 'kappa_min'?"),
]
