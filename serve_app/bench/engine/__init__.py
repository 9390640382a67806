"""`frugal-serve bench engine`: the engines without server and cache, in one process, and what batching is worth on this machine.

    options.py     what is asked for                    workloads.py   which requests
    command.py     the whole measurement                arms.py        one arm once: rates, TTFT, ITL, memory
    rounds.py      who runs again, medians, ratios      steps.py       one step: prefill and decode
    interference.py   long prompts beside streams       table.py       the document for people

The document, whose parts are there where their workload was asked for:

    benchmark     "engine"
    model         id, quantization, dtype, device, weights_bytes
    conditions    processor, cores, load, versions, commit; `peak_rss_method` and `itl_method` say how these two were measured
    workloads     articles, skewed, chat: {requests, max_tokens, priority, one_runs_every, skipped (arms that did not fit into
                  memory, and why), arms}; each arm {arm, engine, batch_size, rounds}, its medians over those rounds (rounds.Result says
                  of what) and, of articles, articles_per_min
    steps         prefill tokens/s by the form of the weights, seconds of a decode step of the slots' runner and of `generate`
    interference  chunked, whole: the streams' ITL, the arriving prompts' TTFT
    ratios        articles, skewed, chat: {slots_vs_static, slots_vs_one, slots_vs_unguessed, static_vs_one, static_vs_plain, best_static,
                  best_slots}; steps: {unpacked_vs_fused, kept_vs_fused, runner_vs_fused, decode_generate_vs_runner};
                  interference: {itl_p50_whole_vs_chunked, itl_p95_whole_vs_chunked, itl_p99_whole_vs_chunked}

A ratio is the median of the rounds in which both sides ran, each round's taken by itself, because the machine's speed drifts; null where a
side is missing. After the first round only the best static size and the best slots size of that round run again, and the other arms.
`one` runs on every eighth request only, in the order of their lengths, and its rate is requests per second on these.
Tests: tests/engine/test_bench_engine.py, tests/model/test_bench.py.
"""
