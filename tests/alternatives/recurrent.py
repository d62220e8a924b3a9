"""Other correct answers to the tasks of recurrent: the hidden suite must accept every one."""

import heapq
import math

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import alternative

# rnn_forward


@alternative("rnn_forward")
def projects_all_inputs_first(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    if batch_first:
        x = x.permute(1, 0, 2)
    T, B = x.shape[:2]
    H = w_hh.size(0)
    if h0 is not None and tuple(h0.shape) != (B, H):
        raise ValueError("h0")
    projected = torch.einsum("tbi,hi->tbh", x, w_ih) + (b_ih + b_hh)
    h = torch.zeros(B, H, dtype=x.dtype) if h0 is None else h0
    out = []
    for t in range(T):
        h = (projected[t] + h @ w_hh.t()).tanh()
        out.append(h.unsqueeze(0))
    out = torch.cat(out)
    return (out.transpose(0, 1) if batch_first else out), out[-1]


@alternative("rnn_forward")
def one_joint_matrix(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    axis = 1 if batch_first else 0
    w, b = torch.cat((w_ih, w_hh), dim=1), b_ih + b_hh
    steps = x.unbind(axis)
    H = len(b)
    if h0 is None:
        h0 = steps[0].new_zeros((steps[0].shape[0], H))
    elif h0.dim() != 2 or h0.size(0) != steps[0].size(0) or h0.size(1) != H:
        raise ValueError(f"expected ({steps[0].size(0)}, {H})")
    states = [h0]
    for step in steps:
        states.append(torch.tanh(torch.addmm(b, torch.cat((step, states[-1]), dim=1), w.T)))
    return torch.stack(states[1:], axis), states[-1]


# LSTMCell


@alternative("LSTMCell")
class GatesOneByOne(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self):
        stdv = 1.0 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            nn.init.uniform_(weight, -stdv, stdv)

    def forward(self, x, state=None):
        H = self.hidden_size
        if state is None:
            hx, cx = torch.zeros(x.size(0), H, dtype=x.dtype), torch.zeros(x.size(0), H, dtype=x.dtype)
        else:
            hx, cx = state
        gates = torch.mm(x, self.weight_ih.t()) + self.bias_ih + torch.mm(hx, self.weight_hh.t()) + self.bias_hh
        ingate, forgetgate = torch.sigmoid(gates[:, :H]), torch.sigmoid(gates[:, H : 2 * H])
        cellgate, outgate = torch.tanh(gates[:, 2 * H : 3 * H]), torch.sigmoid(gates[:, 3 * H :])
        cy = forgetgate * cx + ingate * cellgate
        return outgate * torch.tanh(cy), cy


@alternative("LSTMCell")
class JointMatrix(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        k = hidden_size**-0.5
        shapes = {
            "weight_ih": (4, hidden_size, input_size),
            "weight_hh": (4, hidden_size, hidden_size),
            "bias_ih": (4, hidden_size),
            "bias_hh": (4, hidden_size),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(((torch.rand(shape) * 2 - 1) * k).flatten(0, 1)))

    def forward(self, x, state=None):
        B, H = len(x), self.weight_hh.size(1)
        h, c = state or (x.new_zeros(B, H), x.new_zeros(B, H))
        joint = torch.cat((self.weight_ih, self.weight_hh), 1).unflatten(0, (4, H))
        i, f, g, o = torch.einsum("bd,ghd->gbh", torch.cat((x, h), 1), joint) + (self.bias_ih + self.bias_hh).view(4, 1, H)
        c = torch.addcmul(torch.sigmoid(f) * c, torch.sigmoid(i), torch.tanh(g))
        return torch.sigmoid(o) * torch.tanh(c), c


# GRUCell


@alternative("GRUCell")
class SlicesOfRows(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.H, stdv = hidden_size, 1 / math.sqrt(hidden_size)
        self.weight_ih = nn.Parameter(torch.zeros(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.zeros(3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.zeros(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(3 * hidden_size))
        with torch.no_grad():
            for p in self.parameters():
                p.uniform_(-stdv, stdv)

    def forward(self, x, h=None):
        if h is None:
            h = torch.zeros(x.shape[0], self.H).to(x.dtype)
        gi, gh = x.matmul(self.weight_ih.T) + self.bias_ih, h.matmul(self.weight_hh.T) + self.bias_hh
        H = self.H
        r = torch.sigmoid(gi[:, :H] + gh[:, :H])
        z = torch.sigmoid(gi[:, H : 2 * H] + gh[:, H : 2 * H])
        n = torch.tanh(gi[:, 2 * H :] + r * gh[:, 2 * H :])
        return n + z * (h - n)


@alternative("GRUCell")
class BuiltWithLinears(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        k = hidden_size**-0.5
        for name, shape in (("ih", (3 * hidden_size, input_size)), ("hh", (3 * hidden_size, hidden_size))):
            setattr(self, f"weight_{name}", nn.Parameter(torch.distributions.Uniform(-k, k).sample(shape)))
        for name in ("ih", "hh"):
            setattr(self, f"bias_{name}", nn.Parameter(torch.distributions.Uniform(-k, k).sample((3 * hidden_size,))))

    def forward(self, x, h=None):
        H = self.weight_hh.shape[-1]
        h = h if h is not None else torch.zeros((x.shape[0], H), dtype=x.dtype, device=x.device)
        gate = [
            (F.linear(x, wi, bi), F.linear(h, wh, bh))
            for wi, wh, bi, bh in zip(*(p.split(H) for p in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)), strict=True)
        ]
        reset, update = (torch.sigmoid(a + b) for a, b in gate[:2])
        new = torch.tanh(gate[2][0] + reset * gate[2][1])
        return torch.lerp(new, h, update)


# run_padded


@alternative("run_padded")
def runs_active_rows_only(cell, x, lengths, state):
    T = x.shape[1]
    if lengths.min() < 0 or lengths.max() > T:
        raise ValueError("lengths")
    single = isinstance(state, torch.Tensor)
    parts = [state] if single else list(state)
    steps = []
    for t in range(T):
        rows = (lengths > t).nonzero().flatten()
        shown = torch.zeros_like(parts[0])
        if len(rows):
            now = tuple(p[rows] for p in parts)
            new = cell(x[rows, t], now[0] if single else now)
            new = [new] if single else list(new)
            parts = [p.index_copy(0, rows, n) for p, n in zip(parts, new, strict=True)]
            shown = shown.index_copy(0, rows, new[0])
        steps.append(shown)
    return torch.stack(steps, 1), parts[0] if single else tuple(parts)


@alternative("run_padded")
def one_sequence_at_a_time(cell, x, lengths, state):
    T, single = x.shape[1], torch.is_tensor(state)
    counts = lengths.tolist()
    if any(n < 0 or n > T for n in counts):
        raise ValueError("lengths must be in range")
    outputs, lasts = [], []
    for b, n in enumerate(counts):
        s = state[b : b + 1] if single else tuple(p[b : b + 1] for p in state)
        h = s if single else s[0]
        rows = []
        for t in range(n):
            s = cell(x[b : b + 1, t], s)
            rows.append(s if single else s[0])
        rows += [torch.zeros_like(h)] * (T - n)
        outputs.append(torch.stack(rows, 1))
        lasts.append(s)
    last = torch.cat(lasts) if single else tuple(torch.cat(p) for p in zip(*lasts, strict=True))
    return torch.cat(outputs), last


@alternative("run_padded")
def by_packed_batches(cell, x, lengths, state):
    T = x.size(1)
    if (lengths < 0).any() or (lengths > T).any():
        raise ValueError
    single = isinstance(state, torch.Tensor)
    parts = (state,) if single else state
    order = torch.argsort(lengths, descending=True)
    back = torch.argsort(order)
    now, outputs = [p[order] for p in parts], []
    for t in range(T):
        n = int((lengths > t).sum())
        zeros = torch.zeros_like(now[0])
        if n == 0:
            outputs.append(zeros)
            continue
        head = tuple(p[:n] for p in now)
        new = cell(x[order[:n], t], head[0] if single else head)
        new = (new,) if single else new
        now = [torch.cat((a, p[n:])) for a, p in zip(new, now, strict=True)]
        outputs.append(torch.cat((new[0], zeros[n:])))
    last = tuple(p[back] for p in now)
    return torch.stack(outputs).transpose(0, 1)[back], last[0] if single else last


# BiLSTM


@alternative("BiLSTM")
class ReversesByIndex(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        for k in range(2):
            size = input_size if k == 0 else 2 * hidden_size
            for end in ("", "_reverse"):
                setattr(self, f"weight_ih_l{k}{end}", nn.Parameter(torch.Tensor(4 * hidden_size, size)))
                setattr(self, f"weight_hh_l{k}{end}", nn.Parameter(torch.Tensor(4 * hidden_size, hidden_size)))
                setattr(self, f"bias_ih_l{k}{end}", nn.Parameter(torch.Tensor(4 * hidden_size)))
                setattr(self, f"bias_hh_l{k}{end}", nn.Parameter(torch.Tensor(4 * hidden_size)))
        for p in self.parameters():
            nn.init.uniform_(p, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def direction(self, x, lengths, end):
        w_ih, w_hh, b_ih, b_hh = (getattr(self, n + end) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = c = torch.zeros(len(x), self.hidden_size, dtype=x.dtype)
        hs, cs = [], []
        for t in range(x.shape[1]):
            i, f, g, o = (x[:, t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            hs.append(h)
            cs.append(c)
        hs, cs, rows = torch.stack(hs, 1), torch.stack(cs, 1), torch.arange(len(x))
        return hs, hs[rows, lengths - 1], cs[rows, lengths - 1]

    def forward(self, x, lengths=None):
        B, T, _ = x.shape
        if lengths is None:
            lengths = torch.full((B,), T, dtype=torch.int64)
        steps = torch.arange(T).expand(B, T)
        keep = (steps < lengths[:, None])[..., None]
        flip = torch.where(keep[..., 0], lengths[:, None] - 1 - steps, steps)
        x, h_n, c_n = torch.where(keep, x, torch.zeros((), dtype=x.dtype)), [], []
        for k in range(2):
            forward, h, c = self.direction(x, lengths, f"_l{k}")
            backward, h_, c_ = self.direction(x[torch.arange(B)[:, None], flip], lengths, f"_l{k}_reverse")
            backward = backward[torch.arange(B)[:, None], flip]
            h_n += [h, h_]
            c_n += [c, c_]
            x = torch.cat((forward, backward), -1) * keep
        return x, (torch.stack(h_n), torch.stack(c_n))


@alternative("BiLSTM")
class EachSequenceAlone(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.H = hidden_size
        for k, size in ((0, input_size), (1, 2 * hidden_size)):
            for end in ("", "_reverse"):
                cell = nn.LSTMCell(size, hidden_size)
                for name, p in cell.named_parameters():
                    self.register_parameter(f"{name}_l{k}{end}", p)

    def read(self, rows, end):
        weights = [getattr(self, f"{n}{end}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        state, out = (rows.new_zeros(1, self.H), rows.new_zeros(1, self.H)), []
        for row in rows:
            state = torch.lstm_cell(row[None], state, *weights)
            out.append(state[0])
        return torch.cat(out), state

    def forward(self, x, lengths=None):
        outputs, hs, cs = [], [], []
        for b, sequence in enumerate(x):
            y, states = sequence[: x.shape[1] if lengths is None else int(lengths[b])], []
            for k in (0, 1):
                there, last = self.read(y, f"_l{k}")
                back, first = self.read(y.flip(0), f"_l{k}_reverse")
                y = torch.cat((there, back.flip(0)), 1)
                states += [last, first]
            outputs.append(F.pad(y, (0, 0, 0, x.shape[1] - len(y))))
            hs.append(torch.cat([h for h, _ in states]))
            cs.append(torch.cat([c for _, c in states]))
        return torch.stack(outputs), (torch.stack(hs, 1), torch.stack(cs, 1))


# truncated_bptt


@alternative("truncated_bptt")
def repackages_hidden(model, tokens, window, optimizer):
    if window < 1:
        raise ValueError("window")

    def repackage(h):
        return h.detach() if isinstance(h, torch.Tensor) else tuple(repackage(v) for v in h)

    hidden, losses = None, []
    for i in range(0, tokens.size(1) - 1, window):
        length = min(window, tokens.size(1) - 1 - i)
        data, target = tokens[:, i : i + length], tokens[:, i + 1 : i + 1 + length]
        optimizer.zero_grad(set_to_none=False)
        if hidden is not None:
            hidden = repackage(hidden)
        output, hidden = model(data, hidden)
        loss = nn.CrossEntropyLoss()(output.transpose(1, 2), target)
        loss.backward()
        optimizer.step()
        losses += [loss.item()] * length
    return sum(losses) / len(losses)


@alternative("truncated_bptt")
def log_softmax_by_hand(model, tokens, window, optimizer):
    if window <= 0:
        raise ValueError("window")
    x, y = tokens[:, :-1], tokens[:, 1:]
    starts = list(range(0, x.shape[1], window))
    state, total = None, torch.zeros((), dtype=torch.float64)
    for start in starts:
        part = slice(start, start + window)
        logits, state = model(x[:, part], state)
        nll = -logits.log_softmax(-1).gather(-1, y[:, part].unsqueeze(-1)).squeeze(-1)
        optimizer.zero_grad()
        nll.mean().backward()
        optimizer.step()
        with torch.no_grad():
            total += nll.sum()
        state = tuple(part.detach().clone() for part in state) if isinstance(state, tuple) else state.detach().clone()
    return float(total / y.numel())


# attention_decoder_step


@alternative("attention_decoder_step")
def one_sequence_after_another(cell, x, h, memory, mask, w_query, w_memory, v):
    contexts, weights = [], []
    for q, m, keep in zip(h, memory, mask, strict=True):
        real = m[keep]
        a = torch.softmax(torch.tanh(real @ w_memory.T + w_query @ q) @ v, 0)
        contexts.append(a @ real)
        weights.append(torch.zeros(len(m), dtype=m.dtype).index_put((keep.nonzero().flatten(),), a))
    context = torch.stack(contexts)
    return cell(torch.cat([x, context], dim=-1), h), context, torch.stack(weights)


@alternative("attention_decoder_step")
def with_the_lowest_number(cell, x, h, memory, mask, w_query, w_memory, v):
    clean = torch.where(mask.unsqueeze(-1), memory, torch.zeros_like(memory))
    energy = torch.einsum("a,bsa->bs", v, torch.tanh(F.linear(h, w_query).unsqueeze(1) + F.linear(clean, w_memory)))
    energy = energy.masked_fill(mask.logical_not(), torch.finfo(energy.dtype).min)
    alpha = F.softmax(energy, dim=-1)
    context = torch.bmm(alpha.unsqueeze(1), clean).squeeze(1)
    return cell(torch.cat((x, context), dim=1), h), context, alpha


# beam_search


@alternative("beam_search")
def sorts_with_torch(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    if min(beam_size, max_length) < 1:
        raise ValueError("sizes")
    prefixes, sums, done = torch.tensor([[bos]]), torch.zeros(1, dtype=torch.float64), []
    for n in range(1, max_length + 1):
        step = log_probs(prefixes).detach().double()
        V = step.shape[1]
        total, index = (sums[:, None] + step).flatten().sort(descending=True, stable=True)
        total, index = total[:beam_size], index[:beam_size]
        prefixes = torch.cat((prefixes[index // V], (index % V)[:, None]), dim=1)
        ended = (index % V == eos) | (n == max_length)
        first = (index % V == eos).logical_not().long().sort(stable=True).indices  # finished before the rest of the last beam
        for i in first.tolist():
            if ended[i]:
                done.append((prefixes[i, 1:].tolist(), total[i].item() / n**alpha))
        prefixes, sums = prefixes[~ended], total[~ended]
        if len(prefixes) == 0:
            break
    return [done[i] for i in sorted(range(len(done)), key=lambda i: (-done[i][1], i))]


@alternative("beam_search")
def with_a_heap(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    if beam_size <= 0 or max_length <= 0:
        raise ValueError("sizes")
    beams = [((), 0.0)]
    complete = []
    for _ in range(max_length):
        heap = []
        for rank, (tokens, score) in enumerate(beams):
            row = log_probs(torch.tensor([[bos, *tokens]], dtype=torch.long))[0]
            heap += [(-(score + row[k].item()), rank, k, tokens) for k in range(len(row))]
        kept = heapq.nsmallest(beam_size, heap)
        beams = []
        for negative, _, k, tokens in kept:
            (complete if k == eos else beams).append(((*tokens, k), -negative))
        if not beams:
            break
    complete.extend(beams)
    scored = [(list(tokens), score / len(tokens) ** alpha) for tokens, score in complete]
    scored.sort(key=lambda item: item[1], reverse=True)
    return scored


# selective_scan


@alternative("selective_scan")
def scans_in_doubling_steps(x, delta, A, B, C, D=None, h0=None):
    """Hillis and Steele's scan: after i rounds, each step knows 2^i steps."""
    S, T, _ = x.shape
    if h0 is not None and tuple(h0.shape) != (S, *A.shape):
        raise ValueError("h0")
    a = torch.exp(torch.einsum("std,dn->stdn", delta, A))
    b = torch.einsum("std,stn->stdn", delta * x, B)
    if h0 is not None:
        b = torch.cat([b[:, :1] + a[:, :1] * h0[:, None], b[:, 1:]], dim=1)
    distance = 1
    while distance < T:
        b = torch.cat([b[:, :distance], b[:, distance:] + a[:, distance:] * b[:, :-distance]], dim=1)
        a = torch.cat([a[:, :distance], a[:, distance:] * a[:, :-distance]], dim=1)
        distance *= 2
    y = torch.einsum("stdn,stn->std", b, C)
    if D is not None:
        y = y + x * D
    return y, b[:, -1]


@alternative("selective_scan")
def loops_over_steps_as_mamba_does(u, delta, A, B, C, D=None, h0=None):
    batch, length, dim = u.shape
    state = torch.zeros(batch, dim, A.shape[1], dtype=u.dtype) if h0 is None else h0
    if state.shape != torch.Size([batch, dim, A.shape[1]]):
        raise ValueError("h0")
    ys = []
    for i in range(length):
        deltaA = torch.exp(torch.einsum("bd,dn->bdn", delta[:, i], A))
        deltaB_u = torch.einsum("bd,bn,bd->bdn", delta[:, i], B[:, i], u[:, i])
        state = deltaA * state + deltaB_u
        ys.append(torch.einsum("bdn,bn->bd", state, C[:, i]))
    y = torch.stack(ys, dim=1)
    return (y if D is None else y + u * D), state


@alternative("selective_scan")
def as_one_large_matrix(x, delta, A, B, C, D=None, h0=None):
    """Mamba 2's view: each output is a sum over all earlier inputs; differences of sums of ΔA, which are never positive."""
    S, T, d = x.shape
    if h0 is None:
        h0 = x.new_zeros(S, d, A.shape[1])
    if h0.shape != (S, d, A.shape[1]):
        raise ValueError("h0")
    total = (delta.double()[..., None] * A.double()).cumsum(1)  # (S, T, d, n)
    between = total[:, :, None] - total[:, None]  # (S, to, from, d, n)
    past = torch.ones(T, T, dtype=torch.bool).tril()[:, :, None, None]
    decay = between.masked_fill(~past, -math.inf).exp()
    enters = (delta * x).double()[..., None] * B.double()[:, :, None]
    h = torch.einsum("stfdn,sfdn->stdn", decay, enters) + total.exp() * h0.double()[:, None]
    y = torch.einsum("stdn,stn->std", h, C.double()).to(x.dtype)
    return y if D is None else y + D * x, h[:, -1].to(x.dtype)


# train_char_gru


@alternative("train_char_gru")
def with_a_generator(text, vocab_size, *, seed, updates=40):
    g = torch.Generator().manual_seed(seed)

    class Model(nn.ModuleDict):
        def forward(self, ids):
            return self["head"](self["gru"](self["embed"](ids))[0])

    model = Model({"embed": nn.Embedding(vocab_size, 8), "gru": nn.GRU(8, 24, batch_first=True), "head": nn.Linear(24, vocab_size)})
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(generator=g) if name.startswith("embed") else p.uniform_(-(24**-0.5), 24**-0.5, generator=g)
    T = min(24, len(text) - 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2, weight_decay=0.0)
    for _ in range(updates):
        starts = torch.randint(len(text) - T, (16,), generator=g)
        chunk = torch.stack([text[s : s + T + 1] for s in starts.tolist()])
        loss = F.cross_entropy(model(chunk[:, :-1]).transpose(1, 2), chunk[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


@alternative("train_char_gru")
def goes_on_through_the_text(text, vocab_size, *, seed, updates=40):
    torch.manual_seed(seed)
    model = nn.ModuleDict({"embed": nn.Embedding(vocab_size, 8), "gru": nn.GRU(8, 24, batch_first=True), "head": nn.Linear(24, vocab_size)})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2, betas=(0.9, 0.99))
    B, T = min(16, len(text) - 1), 20
    offsets = torch.arange(B) * ((len(text) - 1) // B) + int(torch.randint(max((len(text) - 1) // B, 1), ()))
    state = None
    for step in range(updates):
        at = offsets[:, None] + step * T + torch.arange(T)
        at = at % (len(text) - 1)
        if len(text) <= T:
            at, state = torch.arange(len(text) - 1)[None], None
        states, state = model["gru"](model["embed"](text[at]), state)
        loss = nn.CrossEntropyLoss()(model["head"](states).reshape(-1, vocab_size), text[at + 1].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = state.detach()
    return model.state_dict()
