"""Mistakes in the file of a service: what stands in it, what a person wrote instead, and what is told.

An empty text for what stands in it: the whole file. Told are line and column, and parts of the sentence.
"""

FILE = """\
name: desk
chain: [writer, editor]
roles:
  writer: {model: vendor, version: "1", registered: false, engine: {name: echo},
    decoding: &d {temperature: 0, top_p: 1, max_new_tokens: 8}}
  editor: {model: careful, version: "2", registered: false, engine: {name: echo}, decoding: *d}
limits: {num_units_max: 8}
prices: {vendor: {prompt: 1}, "careful:2": {output: 2}}
rollout:
  steps: [{weight: 0.1, cap: 100}, 0.5]
"""
MISTAKES = [
    ("chain: [writer, editor]", "chain: [writer, editr]", "2:8", "chain must name roles of this file … 'editr'"),
    ("chain: [writer, editor]", "chain: [writer]", "4:3", "roles has editor, which chain never asks … take it out"),
    ("chain: [writer, editor]", "chain: []", "2:8", "chain must name roles of this file … got []"),
    ("temperature: 0", "temperature: 3", "5:32", "temperature must be between 0 and 2 … got 3"),
    ('version: "1"', "version: newest", "4:", "registered: false needs a version … 'newest'"),
    ("prices: {vendor:", "prices: {vendr:", "8:9", "prices must name models of this file's roles … 'vendr'"),
    ("careful:2", "other:2", "8:9", "prices must name models of this file's roles (careful, vendor) … 'other:2'"),
    ("prompt: 1", "prompt: -1", "8:27", "prices.vendor: prompt must be at least 0 … got -1"),
    ("num_units_max: 8", "num_units_max: 2000", "7:", "num_connections_max must be at least … got 1024"),
    ("limits:", "shadow_share: 2\nlimits:", "7:15", "shadow_share must be between 0 and 1 … got 2"),
    ("limits:", "judge: {role: critic}\nlimits:", "7:8", "judge must name a role of this file … 'critic'"),
    ("limits:", "replicas: {http://a/v1: []}\nlimits:", "7:11", "must be different servers … got []"),
    ("cap: 100}, 0.5", "cap: 100}, {weight: 0.5, cap: 10}", "10:3", "they must not fall … [100, 10]"),
    ("rollout:\n", "rollout:\n  gate: {margins: {cost: 0.1}, method: best}\n", "10:", "method must be one of … 'best'"),
    ("name: desk", "name: Help Desk", "1:7", "name must be lower-case letters … got 'Help Desk'"),
    ("chain: [writer, editor]\n", "", "1:", "lacks the key 'chain'"),
    ("chain: [writer, editor]", "chain: writer, editor", "2:8", "chain must be a list … got 'writer, editor'"),
    ("chain: [writer, editor]", "chain: [writer, editor, writer]", "2:8", "chain must ask each role once"),
    ("chain: [writer, editor]", "chains: [writer, editor]", "2:1", "unknown key 'chains' … did you mean 'chain'?"),
    ("chain: [writer, editor]", "chain: [Writer, editor]", "2:8", "chain must name roles … 'Writer'"),
    ("  writer: {model", "  Writer: {model", "4:3", "lower-case letters … got 'Writer'"),
    ("model: vendor", "model: vendor/llm-70b", "4:", "model must be lower-case letters … got 'vendor/llm-70b'"),
    ("model: vendor, ", "", "4:", "roles.writer lacks the key 'model'"),
    ('version: "1", registered: false', "version: 1.0, registered: false", "4:", "version must be a string … got 1.0"),
    (
        'version: "1", registered: false',
        'version: "1", registered: "false"',
        "4:",
        "registered must be true or false … got 'false'",
    ),
    ('version: "1", registered: false', "version: latest", "4:", "version … 'latest' … newest"),
    ("engine: {name: echo}, decoding: *d", "engine: echo, decoding: *d", "6:", "engine must be a mapping … got 'echo'"),
    ("decoding: *d", "decoding: *decoding", "6:", "undefined alias 'decoding'"),
    ("decoding: *d", "decoding: {stop: ['.']}", "6:", "unknown key 'stop'"),
    ("num_units_max: 8", "num_units_max: 8.5", "7:25", "num_units_max must be a whole number … got 8.5"),
    ("num_units_max: 8", "max_units: 8", "7:10", "unknown key 'max_units' … did you mean 'num_units_max'?"),
    ("num_units_max: 8", "unit_seconds_max: 1m", "7:", "unit_seconds_max must be a number … got '1m'"),
    ("num_units_max: 8", "unit_seconds_max: 0", "7:", "unit_seconds_max must be above 0 … got 0"),
    ("num_units_max: 8", "request_bytes_max: 1MB", "7:", "request_bytes_max must be a whole number … got '1MB'"),
    ("num_units_max: 8", "url_bytes_max: 65536", "7:", "url_bytes_max must be below head_bytes_max … got 65536"),
    ("limits: {num_units_max: 8}", "limits: 8", "7:9", "limits must be a mapping … got 8"),
    ("limits:", "session_seconds: 1h\nlimits:", "7:18", "session_seconds must be a number … got '1h'"),
    ("limits:", "session_seconds: 0\nlimits:", "7:18", "session_seconds must be above 0 … got 0"),
    (
        "limits:",
        "client_decoding: no\nlimits:",
        "7:18",
        "client_decoding must be one of ignored, refused, allowed … got 'no'",
    ),
    ("limits:", "shadow_share: 10%\nlimits:", "7:15", "shadow_share must be a number … got '10%'"),
    ("limits:", "judge: critic\nlimits:", "7:8", "judge must be a mapping … got 'critic'"),
    ("limits:", "judge: {role: editor, share: 10}\nlimits:", "7:", "share must be above 0 and at most 1 … got 10"),
    ("limits:", "api_key: sk-123\nlimits:", "7:1", "unknown key 'api_key'"),
    ("limits:", "port: 8080\nlimits:", "7:1", "unknown key 'port'"),
    ("limits:", "prompts: {files: p.csv}\nlimits:", "7:1", "unknown key 'prompts' … prices"),
    ("limits:", "replicas: {'http://a/v1': 'http://b/v1'}\nlimits:", "7:", "must be a list … got 'http://b/v1'"),
    ("limits:", "replicas: {'http://a/v1': ['b:80']}\nlimits:", "7:", "base_url must be an address … 'b:80'"),
    ("prompt: 1", "prompt: $1", "8:", "prompt must be a number … got '$1'"),
    ("prompt: 1", "input: 1", "8:", "unknown key 'input' … prompt"),
    ("{weight: 0.1, cap: 100}", "{weight: 10, cap: 100}", "10:", "weight must be between 0 and 1 … got 10"),
    ("{weight: 0.1, cap: 100}", "{weight: 0.1, cap: 0}", "10:", "cap must be null or at least 1 … got 0"),
    ("  steps:", "  mirror_partitions: -1\n  steps:", "10:", "mirror_partitions must be at least 0 … got -1"),
    (
        "  steps:",
        "  on_abort: restart\n  steps:",
        "10:",
        "on_abort must be one of repin, finish_unpublished … got 'restart'",
    ),
    ("  steps:", "  gate: {margins: {pass_rate: 0.1}}\n  steps:", "10:", "margins may name … got 'pass_rate'"),
    ("  steps:", "  gate: {margins: {cost: 0}}\n  steps:", "10:", "margins.cost must be above 0 … got 0"),
    (
        "  steps:",
        "  gate: {margins: {judged_quality: 0.1}}\n  steps:",
        "10:",
        "a margin of judged_quality needs a judge",
    ),
]
