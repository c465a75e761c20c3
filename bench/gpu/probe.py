#!/usr/bin/env python3
"""What does this GPU do when its SMs are shared? One file, no dependencies beyond torch, triton and cuda-bindings.

The "probe" part of bench/gpu/run. It knows nothing of the engine: its load stands in for the engine's, so that it can tell what
the card does before an engine runs on it. It has been run on no GPU yet: every experiment ends in a number or in a stated error.

    python3 probe.py --out DIR [--budget 540] [--only NAME,NAME]

Runs each experiment in a process of its own with a time limit, most valuable first, and keeps DIR/probe.json up to date after
each one: a failure is a result ({"error": ...}), never the end. It changes no setting of the GPU; the MPS daemon it starts is its own
(private pipe and log directories) and is stopped again.

Experiments: info, green_alone, green_together, mps, ipc, vmm, green_cost, start_cost.
The load is Llama-3.1-8B bf16: LAYERS of its 32 layers, times scaled by 32 / LAYERS (head and embedding left out).
"""

from __future__ import annotations

import argparse, array, json, os, shutil, socket, subprocess, sys, tempfile, time, traceback

T0 = time.time()
LAYERS, HIDDEN, QKV, FFN, HEADS, KV_HEADS, HEAD_DIM = 4, 4096, 6144, 14336, 32, 8, 128
SCALE = 32 / LAYERS
PREFILL = (512, 2048)  # new tokens, no prefix
DECODE = (1, 16, 64, 256)  # batch, at CONTEXT tokens each
CONTEXT = 1024


# ---------------------------------------------------------------- load


def cu(result):
    """Unwrap a cuda-bindings result tuple or raise with the error's name."""
    err, *values = result
    if int(err) != 0:
        raise RuntimeError(str(err))
    return values[0] if len(values) == 1 else tuple(values)


def kv_reader():
    """A Triton kernel that streams bytes as paged decode attention does (one pass, no reuse)."""
    import triton
    import triton.language as tl

    @triton.jit
    def read(src, out, per_program, BLOCK: tl.constexpr):
        pid = tl.program_id(0).to(tl.int64)
        acc = tl.zeros((BLOCK,), tl.float32)
        for i in range(0, per_program, BLOCK):
            acc += tl.load(src + pid * per_program + i + tl.arange(0, BLOCK)).to(tl.float32)
        tl.store(out + pid, tl.sum(acc))

    return read


def clock_kernel():
    """A Triton kernel that appends the GPU's global nanosecond clock to a list; captured at the end of each step, so that no event must
    cross contexts and both lanes share one clock."""
    import triton
    import triton.language as tl

    @triton.jit
    def stamp(list_, count):
        now = tl.inline_asm_elementwise(
            "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
        )
        tl.store(list_ + tl.atomic_add(count, 1), now)

    return stamp


class Graph:
    """One captured step that stamps its own end."""

    def __init__(self, load, step, stream):
        torch = self.torch = load.torch
        self.stream, self.list = stream, torch.zeros(1 << 14, dtype=torch.int64, device="cuda")
        self.count = torch.zeros(1, dtype=torch.int32, device="cuda")

        def body():
            step()
            load.stamp[(1,)](self.list, self.count)

        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for _ in range(3):
                body()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            body()
        torch.cuda.synchronize()

    def reset(self):
        self.count.zero_()
        self.torch.cuda.synchronize()

    def replay(self, stream=None):
        with self.torch.cuda.stream(stream or self.stream):
            self.graph.replay()

    def ends_ms(self):
        """Ends of all steps since reset, in GPU milliseconds."""
        self.torch.cuda.synchronize()
        return [t / 1e6 for t in self.list[: int(self.count)].tolist()]


class Load:
    """Weights of LAYERS layers and the two step functions."""

    def __init__(self):
        import torch

        self.torch = torch
        make = lambda o, i: torch.randn(o, i, device="cuda", dtype=torch.bfloat16) * 0.02
        self.layers = [
            (make(QKV, HIDDEN), make(HIDDEN, HEADS * HEAD_DIM), make(2 * FFN, HIDDEN), make(HIDDEN, FFN))
            for _ in range(LAYERS)
        ]
        self.read, self.stamp = kv_reader(), clock_kernel()
        self.kv = torch.randn(
            256 * CONTEXT * KV_HEADS * HEAD_DIM * 2, device="cuda", dtype=torch.bfloat16
        )  # one layer's K and V at batch 256
        self.sums = torch.empty(1 << 16, device="cuda", dtype=torch.float32)

    def gemms(self, x, attend):
        F = self.torch.nn.functional
        for qkv, o, up, down in self.layers:
            y = attend(F.linear(x, qkv))
            x = x + F.linear(y, o)
            g, u = F.linear(x, up).chunk(2, -1)
            x = x + F.linear(F.silu(g) * u, down)
        return x

    def prefill(self, tokens):
        torch = self.torch
        x = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)

        def attend(qkv):
            q, k, v = qkv.split((HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM), -1)
            heads = lambda t, n: t.view(1, tokens, n, HEAD_DIM).transpose(1, 2)
            y = torch.nn.functional.scaled_dot_product_attention(
                heads(q, HEADS), heads(k, KV_HEADS), heads(v, KV_HEADS), is_causal=True, enable_gqa=True
            )
            return y.transpose(1, 2).reshape(tokens, -1)

        return lambda: self.gemms(x, attend)

    def decode(self, batch):
        torch = self.torch
        x = torch.randn(batch, HIDDEN, device="cuda", dtype=torch.bfloat16)
        elements = batch * CONTEXT * KV_HEADS * HEAD_DIM * 2
        per_program = 16384

        def attend(qkv):
            self.read[(elements // per_program,)](self.kv, self.sums, per_program, BLOCK=2048)
            return qkv[:, : HEADS * HEAD_DIM]

        return lambda: self.gemms(x, attend)

    def graph(self, step, stream):
        return Graph(self, step, stream)


def gaps(ends):
    """Scaled milliseconds between consecutive ends, sorted."""
    return sorted((b - a) * SCALE for a, b in zip(ends, ends[1:]))


def timed(graph, n, stream=None):
    """Replay n + 1 times back to back; time of each step but the first."""
    graph.reset()
    for _ in range(n + 1):
        graph.replay(stream)
    return gaps(graph.ends_ms())


def q(xs, p):
    return round(xs[min(len(xs) - 1, int(p * len(xs)))], 3)


def stats(xs):
    return {"p50": q(xs, 0.5), "p99": q(xs, 0.99), "n": len(xs)} if xs else {"p50": None, "p99": None, "n": 0}


# ---------------------------------------------------------------- green contexts


def green_streams(want):
    """(stream of a group with >= want SMs, stream of the remainder or None, SM counts). want=None: the whole GPU."""
    import torch
    from cuda.bindings import driver as d

    torch.cuda.init()
    torch.zeros(1, device="cuda")
    if want is None:
        return torch.cuda.Stream(), None, (torch.cuda.get_device_properties(0).multi_processor_count, 0)
    dev = cu(d.cuDeviceGet(0))
    full = cu(d.cuDeviceGetDevResource(dev, d.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM))
    groups, _, rest = cu(d.cuDevSmResourceSplitByCount(1, full, 0, want))
    streams, counts = [], []
    for res in (groups[0], rest):
        if not res.sm.smCount:
            streams.append(None)
            counts.append(0)
            continue
        ctx = cu(
            d.cuGreenCtxCreate(
                cu(d.cuDevResourceGenerateDesc([res], 1)),
                dev,
                d.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM,
            )
        )
        s = cu(d.cuGreenCtxStreamCreate(ctx, d.CUstream_flags.CU_STREAM_NON_BLOCKING, 0))
        streams.append(torch.cuda.ExternalStream(int(s)))
        counts.append(int(res.sm.smCount))
    return streams[0], streams[1], tuple(counts)


def sm_list():
    import torch

    total = torch.cuda.get_device_properties(0).multi_processor_count
    return [*range(8, total - 3, 8), None]


def each_size(sizes, rows_at):
    """The rows of each number of SMs; one that fails says so, and ends no other."""
    rows = []
    for want in sizes:
        try:
            rows += rows_at(want)
        except Exception as e:
            rows.append({"want": want, "error": repr(e)[:400]})
    return rows


def green_alone():
    """Step time of each phase on n SMs, nothing else running."""
    load = Load()

    def at(want):
        stream, _, (sms, _) = green_streams(want)
        row = {"sms": sms}
        for t in PREFILL:
            row[f"prefill_{t}_ms"] = stats(timed(load.graph(load.prefill(t), stream), 5))["p50"]
        for b in DECODE:
            row[f"decode_{b}_ms"] = stats(timed(load.graph(load.decode(b), stream), 8))["p50"]
        return [row]

    return each_size(sm_list(), at)


def together(gp, gd, ms_p, ms_d):
    """Both lanes busy for about 250 ms of unscaled time, launches interleaved by expected time; only steps inside the overlap count."""
    n_p = max(3, int(250 * SCALE / ms_p))
    n_d = min(8000, max(10, int(250 * SCALE / ms_d)))
    gp.reset()
    gd.reset()
    i = j = 0
    while i < n_p or j < n_d:
        if j < n_d and (i >= n_p or j * ms_d <= i * ms_p):
            gd.replay()
            j += 1
        else:
            gp.replay()
            i += 1
    p, d = gp.ends_ms(), gd.ends_ms()
    start, end = max(p[0], d[0]), min(p[-1], d[-1])
    inside = lambda e: gaps([t for t in e if start <= t <= end])
    return inside(p), inside(d)


def green_together():
    """Prefill on n SMs beside decode on the rest (disjoint), and beside decode on all SMs (capped prefill only)."""
    load, rows = Load(), []
    torch = load.torch
    free, total = torch.cuda.Stream(), torch.cuda.get_device_properties(0).multi_processor_count
    step_p, step_d = load.prefill(2048), load.decode(64)
    all_p, all_d = load.graph(step_p, free), load.graph(step_d, free)
    base_p, base_d = stats(timed(all_p, 5))["p50"], stats(timed(all_d, 10))["p50"]
    second = torch.cuda.Stream()
    uncapped_d = load.graph(step_d, second)
    p, d = together(all_p, uncapped_d, base_p, base_d)
    rows.append(
        {
            "prefill_sms": "all",
            "decode_sms": "all",
            "prefill_2048_ms": stats(p),
            "decode_64_ms": stats(d),
            "alone": [base_p, base_d],
        }
    )

    def at(want):
        found = []
        sp, sd, (np_, decode_sms) = green_streams(want)
        gp = load.graph(step_p, sp)
        if sd is not None:
            gd = load.graph(step_d, sd)
            p, d = together(gp, gd, base_p * total / np_, base_d)
            found.append(
                {
                    "prefill_sms": np_,
                    "decode_sms": decode_sms,
                    "prefill_2048_ms": stats(p),
                    "decode_64_ms": stats(d),
                }
            )
        p, d = together(gp, uncapped_d, base_p * total / np_, base_d)
        found.append(
            {"prefill_sms": np_, "decode_sms": "all", "prefill_2048_ms": stats(p), "decode_64_ms": stats(d)}
        )
        return found

    return rows + each_size(sm_list()[:-1], at)


def green_cost():
    """Seconds and memory to make one pair of green contexts, and whether a graph keeps its partition when launched elsewhere."""
    import torch

    load = Load()
    streams = []

    def at(want):
        free0, t = torch.cuda.mem_get_info()[0], time.perf_counter()
        stream, _, counts = green_streams(want)
        streams.append(stream)
        seconds, now = round(time.perf_counter() - t, 4), torch.cuda.mem_get_info()[0]
        return [{"sms": counts, "create_s": seconds, "bytes": free0 - now}]

    out = each_size((16, 32, 64, 96), at)
    if not streams:
        return out
    s = streams[-1]
    g = load.graph(load.prefill(512), s)
    other = torch.cuda.Stream()
    out.append(
        {
            "graph_on_own_stream_ms": stats(timed(g, 5)),
            "same_graph_on_plain_stream_ms": stats(timed(g, 5, other)),
            "note": "equal: capture fixes the SMs",
        }
    )
    return out


# ---------------------------------------------------------------- processes: MPS, sharing, start-up


class Mps:
    """A control daemon of our own; as a context manager."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="mps-")
        self.env = {
            **os.environ,
            "CUDA_MPS_PIPE_DIRECTORY": self.root + "/pipe",
            "CUDA_MPS_LOG_DIRECTORY": self.root + "/log",
        }
        for d in ("pipe", "log"):
            os.mkdir(f"{self.root}/{d}")

    def __enter__(self):
        exe = shutil.which("nvidia-cuda-mps-control") or next(
            (
                p
                for p in ("/usr/local/nvidia/bin/nvidia-cuda-mps-control", "/usr/bin/nvidia-cuda-mps-control")
                if os.path.exists(p)
            ),
            None,
        )
        if not exe:
            raise RuntimeError("no nvidia-cuda-mps-control on this machine")
        self.exe = exe
        self.env["PATH"] = os.path.dirname(exe) + ":" + self.env["PATH"]
        self.proc = subprocess.Popen(
            [exe, "-f"], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        time.sleep(1.5)
        if self.proc.poll() is not None:
            raise RuntimeError("mps control ended: " + self.proc.stdout.read()[-400:])
        return self

    def ask(self, cmd):
        return subprocess.run(
            [self.exe], input=cmd + "\n", env=self.env, text=True, capture_output=True, timeout=20
        ).stdout.strip()

    def logs(self):
        return {
            f: open(f"{self.root}/log/{f}", errors="replace").read()[-1500:]
            for f in os.listdir(self.root + "/log")
        }

    def __exit__(self, *_):
        try:
            self.ask("quit")
        except Exception:
            pass
        time.sleep(0.5)
        if self.proc.poll() is None:
            self.proc.terminate()


class Worker:
    """This file as `worker ROLE`: speaks JSON lines; reports its own start-up phases first."""

    def __init__(self, role, env, percent=None):
        env = dict(env)
        if percent:
            env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(percent)
        self.p = subprocess.Popen(
            [sys.executable, __file__, "worker", role],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self):
        return json.loads(self.p.stdout.readline())

    def send(self, **kw):
        self.p.stdin.write(json.dumps(kw) + "\n")
        self.p.stdin.flush()

    def read(self):
        return json.loads(self.p.stdout.readline())

    def stop(self):
        try:
            self.p.stdin.close()
            self.p.wait(15)
        except Exception:
            self.p.kill()


def worker(role):
    born = time.time()
    import torch

    t_import = time.time()
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    t_ctx = time.time()
    load = Load()
    stream = torch.cuda.Stream()
    t_load = time.time()
    graph = load.graph(load.prefill(2048) if role == "prefill" else load.decode(64), stream)
    t_graph = time.time()
    print(
        json.dumps(
            {
                "role": role,
                "sms": torch.cuda.get_device_properties(0).multi_processor_count,
                "import_s": t_import - born,
                "context_s": t_ctx - t_import,
                "alloc_s": t_load - t_ctx,
                "graph_s": t_graph - t_load,
            }
        ),
        flush=True,
    )
    for line in sys.stdin:
        job = json.loads(line)
        while time.time() < job["at"]:
            pass
        xs, end = [], job["at"] + job["seconds"]
        while time.time() < end:
            xs += timed(graph, 2)
        print(json.dumps(stats(sorted(xs))), flush=True)


def mps():
    """Percent -> granted SMs; prefill at p % beside decode at d %; alone for reference. Needs one process per (role, percent)."""
    out = {}
    with Mps() as m:
        out["before"] = m.ask("get_server_list")
        pre = {p: Worker("prefill", m.env, p) for p in (20, 40, 60, 80, 100)}
        dec = {d: Worker("decode", m.env, d) for d in (40, 60, 100)}
        out["start"] = [{"percent": k, **w.ready()} for k, w in [*pre.items(), *dec.items()]]
        out["servers"] = m.ask("get_server_list")
        out["ps"] = m.ask("ps")[:800]

        def run(*ws):
            at = time.time() + 0.05
            for w in ws:
                w.send(at=at, seconds=1.0)
            return [w.read() for w in ws]

        out["alone"] = [
            {"role": r, "percent": k, **run(w)[0]}
            for r, ws in (("prefill", pre), ("decode", dec))
            for k, w in ws.items()
        ]
        out["together"] = []
        for p, wp in pre.items():
            for d, wd in dec.items():
                a, b = run(wp, wd)
                out["together"].append(
                    {"prefill_percent": p, "decode_percent": d, "prefill_2048_ms": a, "decode_64_ms": b}
                )
        for w in [*pre.values(), *dec.values()]:
            w.stop()
        out["logs"] = m.logs()
    return out


def start_cost():
    """Start-up phases of a worker without MPS, cold and warm."""
    out = []
    for role in ("decode", "decode", "prefill"):
        t = time.time()
        w = Worker(role, os.environ)
        r = w.ready()
        out.append({"wall_s": time.time() - t, **r})
        w.stop()
    return out


def child_env(mode, m):
    return m.env if mode == "mps" else {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"}


class MpsIfAny(Mps):
    """As Mps, but without a daemon only the plain mode is tried."""

    def __enter__(self):
        try:
            super().__enter__()
            self.modes = ("plain", "mps")
        except Exception as e:
            self.modes, self.proc, self.exe = ("plain",), None, None
            print("no mps:", e, flush=True)
        return self

    def __exit__(self, *exc):
        if self.proc:
            super().__exit__(*exc)


IPC_CHILD = """
import sys,torch
from cuda.bindings import runtime as r
torch.zeros(1,device='cuda')
h=r.cudaIpcMemHandle_t(); h.reserved=bytes.fromhex(sys.argv[1])
e,p=r.cudaIpcOpenMemHandle(h,r.cudaIpcMemLazyEnablePeerAccess)
assert int(e)==0, e
class A: __cuda_array_interface__=dict(shape=(1<<20,),typestr='|u1',data=(int(p),False),version=3)
t=torch.as_tensor(A(),device='cuda'); print(int(t[:100].sum()),flush=True); t[100]=7; torch.cuda.synchronize()
"""
IPC_PARENT = """
import sys,subprocess,os,torch,json
from cuda.bindings import runtime as r
torch.zeros(1,device='cuda')
e,p=r.cudaMalloc(64<<20); assert int(e)==0,e
class A: __cuda_array_interface__=dict(shape=(1<<20,),typestr='|u1',data=(int(p),False),version=3)
t=torch.as_tensor(A(),device='cuda'); t.fill_(1); torch.cuda.synchronize()
e,h=r.cudaIpcGetMemHandle(p); assert int(e)==0,e
env=json.loads(sys.argv[2]); o=subprocess.run([sys.executable,'-c',sys.argv[1],bytes(h.reserved).hex()],env=env,capture_output=True,text=True,timeout=60)
print(json.dumps(dict(child=o.stdout.strip(),error=o.stderr[-300:],seen_back=int(t[100]))))
"""


def ipc():
    """Legacy IPC handles: owner and importer each inside or outside MPS."""
    out = {}
    with MpsIfAny() as m:
        for owner in m.modes:
            for importer in m.modes:
                try:
                    o = subprocess.run(
                        [sys.executable, "-c", IPC_PARENT, IPC_CHILD, json.dumps(child_env(importer, m))],
                        env=child_env(owner, m),
                        capture_output=True,
                        text=True,
                        timeout=90,
                    )
                    out[f"{owner}->{importer}"] = (
                        json.loads(o.stdout) if o.returncode == 0 else {"error": o.stderr[-400:]}
                    )
                except Exception as e:
                    out[f"{owner}->{importer}"] = {"error": repr(e)}
    return out


VMM = """
import sys,os,socket,array,torch,json
from cuda.bindings import driver as d
def cu(x):
    e,*v=x
    if int(e)!=0: raise RuntimeError(str(e))
    return v[0] if len(v)==1 else v
torch.zeros(1,device='cuda'); dev=0
H=d.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
loc=d.CUmemLocation(); loc.type=d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE; loc.id=0
def mapped(h,n,flag):
    p=cu(d.cuMemAddressReserve(n,0,0,0))
    e=d.cuMemMap(p,n,0,h,0)[0]; assert int(e)==0,e
    a=d.CUmemAccessDesc(); a.location=loc; a.flags=flag
    e=d.cuMemSetAccess(p,n,[a],1)[0]; assert int(e)==0,e
    class A: __cuda_array_interface__=dict(shape=(1<<20,),typestr='|u1',data=(int(p),False),version=3)
    return torch.as_tensor(A(),device='cuda')
RW=d.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE; RO=d.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READ
N=64<<20; s=socket.socket(fileno=int(sys.argv[2]))
if sys.argv[1]=='owner':
    p=d.CUmemAllocationProp(); p.type=d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED; p.location=loc; p.requestedHandleTypes=H
    h=cu(d.cuMemCreate(N,p,0)); t=mapped(h,N,RW); t.fill_(1); torch.cuda.synchronize()
    fd=cu(d.cuMemExportToShareableHandle(h,H,0))
    socket.send_fds(s,[b'x'],[int(fd)]); s.recv(1); torch.cuda.synchronize(); print(json.dumps(dict(seen_back=int(t[100]))))
else:
    _,fds,_,_=socket.recv_fds(s,1,1); h=cu(d.cuMemImportFromShareableHandle(fds[0],H))
    t=mapped(h,N,RW); total=int(t[:100].sum()); t[100]=7; torch.cuda.synchronize()
    try: ro=int(mapped(h,N,RO)[:100].sum())
    except Exception as e: ro=repr(e)
    s.send(b'y'); print(json.dumps(dict(sum=total,readonly_sum=ro)))
"""


def vmm():
    """VMM allocation passed as a file descriptor: owner and importer each inside or outside MPS; read-only mapping."""
    out = {}
    with MpsIfAny() as m:
        for owner in m.modes:
            for importer in m.modes:
                a, b = socket.socketpair()
                for s in (a, b):
                    s.set_inheritable(True)
                start = lambda role, s, mode: subprocess.Popen(
                    [sys.executable, "-c", VMM, role, str(s.fileno())],
                    env=child_env(mode, m),
                    pass_fds=[s.fileno()],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                ps = [start("owner", a, owner), start("importer", b, importer)]
                a.close()
                b.close()
                row = {}
                for name, p in zip(("owner", "importer"), ps):
                    try:
                        o, e = p.communicate(timeout=60)
                        row[name] = json.loads(o) if p.returncode == 0 else {"error": e[-400:]}
                    except Exception as x:
                        p.kill()
                        row[name] = {"error": repr(x)}
                out[f"{owner}->{importer}"] = row
    return out


def info():
    sh = lambda c: subprocess.run(c, shell=True, capture_output=True, text=True).stdout.strip()[:600]
    out = {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": os.uname().release,
        "uid": os.getuid(),
        "smi": sh(
            "nvidia-smi --query-gpu=name,driver_version,compute_mode,memory.total --format=csv,noheader"
        ),
        "mps": sh(
            "which nvidia-cuda-mps-control nvidia-cuda-mps-server; ls /usr/local/nvidia/bin 2>/dev/null | tr '\\n' ' '"
        ),
        "cpus": os.cpu_count(),
    }
    for mod in (
        "triton",
        "cuda.bindings",
        "cuda.core",
        "pynvml",
        "flashinfer",
        "transformers",
        "zmq",
        "msgspec",
    ):
        try:
            out[mod] = getattr(__import__(mod, fromlist=["x"]), "__version__", "present")
        except Exception as e:
            out[mod] = type(e).__name__
    import torch

    p = torch.cuda.get_device_properties(0)
    return {**out, "gpu": p.name, "sms": p.multi_processor_count, "torch": torch.__version__}


# ---------------------------------------------------------------- main

EXPERIMENTS = {
    "info": (info, 60),
    "green_alone": (green_alone, 150),
    "green_together": (green_together, 120),
    "mps": (mps, 150),
    "ipc": (ipc, 120),
    "vmm": (vmm, 120),
    "green_cost": (green_cost, 60),
    "start_cost": (start_cost, 90),
}


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "worker":
        return worker(sys.argv[2])
    if len(sys.argv) > 2 and sys.argv[1] == "experiment":
        try:
            result = EXPERIMENTS[sys.argv[2]][0]()
        except BaseException as e:
            result = {"error": repr(e), "trace": traceback.format_exc()[-1200:]}
        print("RESULT " + json.dumps(result), flush=True)
        return
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--budget", type=float, default=540)
    ap.add_argument("--only", default=",".join(EXPERIMENTS))
    a = ap.parse_args()
    if not has_gpu():
        print("needs an NVIDIA GPU: there is no driver, or torch.cuda.is_available() is False", flush=True)
        return 2
    os.makedirs(a.out, exist_ok=True)
    path = os.path.join(a.out, "probe.json")
    results = read_results(path)
    for name in a.only.split(","):
        if name in results:
            continue
        left = a.budget - (time.time() - T0)
        if left < 20:
            return 3
        t = time.time()
        limit = EXPERIMENTS[name][1]
        result = run_experiment([sys.executable, __file__, "experiment", name], min(left - 5, limit), limit)
        if result is None:
            print(f"{name}: cut short of its {limit} s", flush=True)
            return 3
        results[name] = result
        print(f"{name}: {time.time() - t:.1f} s", json.dumps(results[name])[:700], flush=True)
        with open(path + ".tmp", "w") as f:
            json.dump(results, f, indent=1)
        os.replace(path + ".tmp", path)
    failed = [name for name, result in results.items() if isinstance(result, dict) and "error" in result]
    if failed:
        print("ended in an error: " + ", ".join(failed), flush=True)
    return 0 if len(failed) < len(results) else 1


def run_experiment(command, seconds, limit):
    """Its result, an error where it has none; None where it was cut off after less than its limit, which says nothing of it."""
    p = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        o, _ = p.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, 15)
        time.sleep(1)
        try:
            os.killpg(p.pid, 9)
        except ProcessLookupError:
            pass
        o = (p.communicate()[0] or "") + "\nTIMEOUT"
        if seconds < limit:
            return None
    lines = [l for l in o.splitlines() if l.startswith("RESULT ")]
    return json.loads(lines[-1][7:]) if lines else {"error": "no result", "tail": o[-1500:]}


def has_gpu():
    """Asked in a process of its own: this one must hold no context on the GPU. Without a driver torch is not even imported."""
    ask = "import ctypes; ctypes.CDLL('libcuda.so.1'); import torch,sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True).returncode == 0


def read_results(path):
    """What an earlier call has found out, errors included; nothing where there is none."""
    try:
        return json.load(open(path))
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    sys.exit(main())
