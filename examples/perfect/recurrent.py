"""A submission with all tasks of recurrent solved, in another style than the reference's."""

import torch
from torch import nn


def rnn_forward(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    """Project all inputs at once, then loop over the states."""
    projected = x @ w_ih.T + (b_ih + b_hh)
    steps = projected.unbind(1 if batch_first else 0)
    B, H = steps[0].shape
    if h0 is not None and h0.shape != (B, H):
        raise ValueError(f"h0 must be ({B}, {H})")
    state = torch.zeros_like(steps[0]) if h0 is None else h0
    seen = []
    for step in steps:
        state = (step + state @ w_hh.T).tanh()
        seen.append(state)
    return torch.stack(seen, 1 if batch_first else 0), state


class _Cell(nn.Module):
    """The parameters of a cell with this many gates."""

    def __init__(self, gates, input_size, hidden_size):
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(gates * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(gates * hidden_size))
        for p in self.parameters():
            nn.init.uniform_(p, -1 / hidden_size**0.5, 1 / hidden_size**0.5)

    def zeros(self, x):
        """A first state."""
        return torch.zeros(len(x), self.weight_hh.shape[1], dtype=x.dtype)


class LSTMCell(_Cell):
    """Gates from one sum, cut by slices."""

    def __init__(self, input_size, hidden_size):
        super().__init__(4, input_size, hidden_size)

    def forward(self, x, state=None):
        """One step."""
        h, c = (self.zeros(x), self.zeros(x)) if state is None else state
        total = x @ self.weight_ih.T + h @ self.weight_hh.T + self.bias_ih + self.bias_hh
        i, f, g, o = total.split(h.shape[1], dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class GRUCell(_Cell):
    """Two projections, kept apart."""

    def __init__(self, input_size, hidden_size):
        super().__init__(3, input_size, hidden_size)

    def forward(self, x, h=None):
        """One step."""
        h = self.zeros(x) if h is None else h
        H = h.shape[1]
        a, b = x @ self.weight_ih.T + self.bias_ih, h @ self.weight_hh.T + self.bias_hh
        r, z = torch.sigmoid(a[:, : 2 * H] + b[:, : 2 * H]).split(H, dim=1)
        n = torch.tanh(a[:, 2 * H :] + r * b[:, 2 * H :])
        return n + z * (h - n)


def run_padded(cell, x, lengths, state):
    """Give the cell only the rows that go on."""
    T = x.shape[1]
    if any(not 0 <= n <= T for n in lengths.tolist()):
        raise ValueError("a length is out of range")
    single = torch.is_tensor(state)
    parts = [state] if single else list(state)
    outputs = torch.zeros(len(x), T, parts[0].shape[1], dtype=parts[0].dtype)
    for t in range(T):
        rows = torch.where(lengths > t)[0]
        if rows.numel():
            now = [p[rows] for p in parts]
            new = cell(x[rows, t], now[0] if single else tuple(now))
            new = [new] if single else new
            parts = [p.index_put((rows,), n) for p, n in zip(parts, new, strict=True)]
            outputs = outputs.index_put((rows, torch.tensor(t)), new[0])
    return outputs, parts[0] if single else tuple(parts)


class BiLSTM(nn.Module):
    """Each sequence is read by itself, without its padding."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        for layer, width in enumerate((input_size, 2 * hidden_size)):
            for ending in ("", "_reverse"):
                for name, p in nn.LSTMCell(width, hidden_size).named_parameters():
                    self.register_parameter(f"{name}_l{layer}{ending}", p)

    def read(self, steps, ending):
        """The states h of all steps, and the last h and c."""
        w = [getattr(self, name + ending) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        h = c = steps.new_zeros(1, w[1].shape[1])
        seen = []
        for step in steps.split(1):
            h, c = torch.lstm_cell(step, (h, c), *w)
            seen.append(h)
        return torch.cat(seen), h, c

    def forward(self, x, lengths=None):
        """Both layers, both directions."""
        B, T = x.shape[:2]
        outputs, hs, cs = [], [], []
        for b in range(B):
            y = x[b, : T if lengths is None else lengths[b]]
            for layer in "01":
                there, h1, c1 = self.read(y, "_l" + layer)
                back, h2, c2 = self.read(y.flipud(), f"_l{layer}_reverse")
                y = torch.cat((there, back.flipud()), dim=1)
                hs += [h1, h2]
                cs += [c1, c2]
            outputs.append(nn.functional.pad(y, (0, 0, 0, T - len(y))))
        h_n, c_n = (torch.cat(part).unflatten(0, (B, 4)).transpose(0, 1) for part in (hs, cs))
        return torch.stack(outputs), (h_n, c_n)


def truncated_bptt(model, tokens, window, optimizer):
    """Detach before each window, average at the end."""
    if window < 1:
        raise ValueError("window must be at least 1")
    state, losses = None, []
    for start in range(0, tokens.shape[1] - 1, window):
        piece = tokens[:, start : start + window + 1]
        if torch.is_tensor(state):
            state = state.detach()
        elif state is not None:
            state = tuple(part.detach() for part in state)
        logits, state = model(piece[:, :-1], state)
        each = nn.functional.cross_entropy(logits.transpose(1, 2), piece[:, 1:], reduction="none")
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
        losses.append(each.detach().double())
    return torch.cat(losses, dim=1).mean().item()


def attention_decoder_step(cell, x, h, memory, mask, w_query, w_memory, v):
    """Softmax by hand over the real positions."""
    memory = torch.where(mask[..., None], memory, 0.0)
    e = torch.tanh((w_query @ h.T).T[:, None, :] + memory @ w_memory.T) @ v
    e = torch.where(mask, e, -torch.inf)
    p = (e - e.amax(1, keepdim=True).detach()).exp()
    a = p / p.sum(1, keepdim=True)
    context = torch.einsum("bs,bsm->bm", a, memory)
    return cell(torch.hstack((x, context)), h), context, a


def beam_search(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    """Prefixes as lists, candidates as tuples that sort by themselves."""
    if beam_size < 1 or max_length < 1:
        raise ValueError("beam_size and max_length must be at least 1")
    beam, done = [(0.0, [bos])], []
    for length in range(1, max_length + 1):
        steps = log_probs(torch.tensor([tokens for _, tokens in beam]))
        candidates = []
        for rank, (total, tokens) in enumerate(beam):
            candidates += [(-(total + p), rank, token, tokens) for token, p in enumerate(steps[rank].tolist())]
        kept = [(-negative, [*tokens, token]) for negative, _, token, tokens in sorted(candidates)[:beam_size]]
        beam = [item for item in kept if item[1][-1] != eos]
        ended = [item for item in kept if item[1][-1] == eos]
        done += [(tokens[1:], total / length**alpha) for total, tokens in ended]
        if not beam:
            return sorted(done, key=lambda item: item[1], reverse=True)
    done += [(tokens[1:], total / max_length**alpha) for total, tokens in beam]
    return sorted(done, key=lambda item: item[1], reverse=True)


def selective_scan(x, delta, A, B, C, D=None, h0=None):
    """One channel's states at a time would do, too; here, all channels, step by step."""
    S, T, d = x.shape
    n = A.shape[1]
    if h0 is not None and tuple(h0.shape) != (S, d, n):
        raise ValueError(f"h0 must be ({S}, {d}, {n})")
    state = torch.zeros(S, d, n, dtype=x.dtype) if h0 is None else h0
    shown = []
    for t in range(T):
        step = delta[:, t].unsqueeze(2)
        state = torch.exp(step * A) * state + step * x[:, t].unsqueeze(2) * B[:, t].unsqueeze(1)
        out = torch.bmm(state, C[:, t].unsqueeze(2)).squeeze(2)
        shown.append(out if D is None else out + D * x[:, t])
    return torch.stack(shown, 1), state


def train_char_gru(text, vocab_size, *, seed, updates=40):
    """Windows at random places, by index."""
    torch.manual_seed(seed)
    net = nn.ModuleDict({"embed": nn.Embedding(vocab_size, 8), "gru": nn.GRU(8, 24, batch_first=True), "head": nn.Linear(24, vocab_size)})
    T = min(20, len(text) - 1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-2, weight_decay=0.0)
    for _ in range(updates):
        at = torch.randint(0, len(text) - T, (12, 1)) + torch.arange(T)
        states, _ = net["gru"](net["embed"](text[at]))
        loss = nn.functional.cross_entropy(net["head"](states).reshape(-1, vocab_size), text[at + 1].reshape(-1))
        net.zero_grad()
        loss.backward()
        optimizer.step()
    return net.state_dict()
