"""Capstone: a language model from scratch, from bytes to new text.

    1  train_bpe    documents              →  merges, the tokens that are worth having
    2  Tokenizer    bytes                  →  tokens, and back
    3  GPT          tokens                 →  logits of each next token
    4  train_gpt    a network, tokens      →  the network, trained on random windows
    5  generate     a network, a prompt    →  new tokens

A token is an int: 0 … 255 are the bytes, 256 + k is what merge k makes. Bytes are cut into **words** before anything is merged, and
no token reaches from one word into another. A word is a run of bytes other than the space, with the one space before it, if there is
one; any other space is a word by itself. re.findall(rb" ?[^ ]+| ", data) finds them in order, and their bytes joined are the data.

Every stage stands alone: it gets what the stages before it make. Arguments, modes, generators and other global state are left as you
found them, unless the statement says otherwise. Tensors may be non-contiguous.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def train_bpe(documents: Sequence[bytes], vocab_size: int) -> list[tuple[int, int]]:
    """Learn which neighbours to merge into one token (byte-pair encoding on bytes; Sennrich et al. 2016, section 3.2).

    Cut each document into words, as at the top of the module: re.findall(rb" ?[^ ]+| ", document). At first, a word is the list of
    its bytes. Merge k = 0, 1, … does this:

    1. Count the pairs of neighbours in all words. Each place counts, and places may overlap: "aaaa" has (a, a) three times. No pair goes
       from one word into another, or from one document into another.
    2. Take the pair with the largest count; among equals, the one with the smaller left token, then with the smaller right one. If no
       pair occurs at least twice, stop: a token that occurs once saves nothing.
    3. In every word, from left to right, put the token 256 + k in the place of each such pair. A token is used once: with (a, a),
       "aaaaa" becomes 256, 256, a.

    Count equal words once, and keep how often they occur: a test has 400,000 bytes in some hundred different words, and learns 100 merges.
    That takes 0.2 seconds so, and half a minute word by word. The limit is five seconds.

    Example: the documents [b"low low", b"slow"] have the words "low", " low" and "slow". (l, o) and (o, w) occur three times each. "l"
    is smaller than "o", so merge 0 is (108, 111); merge 1 is (256, 119). Then nothing occurs twice.

    Args:
        documents: any bytes, text or not; a document may be empty, and there may be none.
        vocab_size: the most tokens there may be, bytes included: at most vocab_size − 256 merges are learnt.

    Returns: the pairs, in the order in which they were taken: tuples of two ints.
    Raises: ValueError if vocab_size is below 256.
    """
    # TODO: about 15 lines, and 8 in helpers of your own.
    raise NotImplementedError("train_bpe")


class Tokenizer:
    """Turn any bytes into tokens, and tokens back into the same bytes.

    merges[k] is the pair of tokens that becomes the token 256 + k; k is its rank. With M merges, the special tokens are 256 + M,
    256 + M + 1, …, in the order in which they are given. A special token stands for bytes that nothing merges, such as b"<|end|>" between
    documents.

    Args of the constructor:
        merges: different pairs, possibly none. Those of merges[k] are bytes or tokens of earlier merges: below 256 + k.
        specials: the bytes of each special token, possibly none.

    The public attribute `vocab_size` is the number of all tokens, an int.
    Raises: ValueError if a special token is empty, or given twice.
    """

    def __init__(self, merges: Sequence[tuple[int, int]], specials: Sequence[bytes] = ()) -> None:
        """Make the tables; see the class."""
        # TODO: about 9 lines.
        raise NotImplementedError("Tokenizer.__init__")

    def encode(self, data: bytes, *, specials: bool = True) -> Tensor:
        """Find the tokens of some bytes.

        1. Special tokens are cut out first, from left to right: wherever the bytes of one begin, it is taken; where those of several
           begin, the longest. With `specials` false, this is left out, and what looks like a special token is bytes like all others. So
           it should be with texts that strangers send.
        2. What lies between them is cut into words, as at the top of the module: re.findall(rb" ?[^ ]+| ", piece).
        3. Within each word, the tokens are the bytes at first. As long as there are neighbours that make a pair of `merges`: take the pair
           with the lowest rank, wherever it stands, and merge all places where it stands, from left to right. A token is used once.

        Args:
            data: any bytes, text or not; may be empty.

        Returns: (n,), int64. (0,) where data is empty.
        """
        # TODO: about 12 lines, and 14 in helpers of your own.
        raise NotImplementedError("Tokenizer.encode")

    def decode(self, ids: Tensor | Sequence[int]) -> bytes:
        """Find the bytes of some tokens: decode(encode(data)) is data, for any bytes, and with `specials` true or false.

        Args:
            ids: (n,), int64, or ints in a list or a tuple; n may be 0. Any tokens, not only such as encode makes: a network may write
                others. Special tokens give their bytes.

        Returns: their bytes, joined.
        Raises: ValueError if an id is not in 0 … vocab_size − 1.
        """
        # TODO: about 4 lines.
        raise NotImplementedError("Tokenizer.decode")


class GPT(nn.Module):
    """A language model, of linear layers, embeddings and norms: it predicts each next token (Radford et al. 2019, section 2.3).

    With V = vocab_size, T = context, d = d_model, H = num_heads and D = d / H, the parameters are those of these submodules, and the
    state_dict holds nothing else:

        tokens      nn.Embedding(V, d)
        positions   nn.Embedding(T, d)
        blocks      nn.ModuleList of num_layers blocks; each has the submodules
            norm1       nn.LayerNorm(d)
            qkv         nn.Linear(d, 3d)
            proj        nn.Linear(d, d)
            norm2       nn.LayerNorm(d)
            up          nn.Linear(d, 4d)
            down        nn.Linear(4d, d)
        norm        nn.LayerNorm(d)
        head        nn.Linear(d, V, bias=False), its weight tied: head.weight is tokens.weight, one parameter

    So a key of the state_dict is "blocks.0.norm1.weight". Norms start as nn.LayerNorm does, all biases at 0. The weights of proj and down
    are drawn from a normal distribution of the standard deviation 0.02 / √(2 · num_layers): each block adds two such outputs to x, and
    their sum should not grow with the depth. All other weights, embeddings too, have the standard deviation 0.02.

    Args of the constructor:
        vocab_size, context, d_model, num_heads, num_layers: as above, at least 1 each; T is the most tokens that the model can look at.

    Raises: ValueError if num_heads does not divide d_model.
    Not allowed: nn.MultiheadAttention, nn.TransformerEncoderLayer and what they call. (F.scaled_dot_product_attention is fine.)
    """

    def __init__(self, vocab_size: int, context: int, d_model: int, num_heads: int, num_layers: int) -> None:
        """Make the submodules, draw the weights, and tie head and tokens; see the class."""
        # TODO: about 27 lines.
        raise NotImplementedError("GPT.__init__")

    def forward(self, ids: Tensor) -> Tensor:
        """The scores of the next token, at every position.

            x = tokens[ids] + positions          position t gets the vector t, in every row alike
            x = x + proj(attention(norm1(x)))    for each block
            x = x + down(gelu(up(norm2(x))))     the exact GELU, F.gelu(x)
            logits = head(norm(x))

        In attention, the 3d features of qkv are q, k and v, in that order, of d features each; head h has the features
        h · D … (h + 1) · D − 1 of each. It mixes v with softmax(q kᵀ / √D), where position t looks at the positions 0 … t only. The heads'
        outputs are joined in order.

        Args:
            ids: (B, L), int64, 0 … V − 1, with B ≥ 1 and 1 ≤ L ≤ T.

        Returns: logits, (B, L, V): those at position t are for token t + 1.
        Raises: ValueError if L is larger than T.
        """
        # TODO: about 11 lines.
        raise NotImplementedError("GPT.forward")


def train_gpt(model: nn.Module, tokens: Tensor, context: int, *, generator: torch.Generator, updates: int = 240) -> None:
    """Train a language model on random windows of a stream of tokens, in place.

    A window is context + 1 neighbouring tokens. The first `context` of them are the input, the last `context` the targets: each token is
    to be predicted from those before it. In each update, a batch of windows is drawn that begin at random places of the stream, any place
    where a whole window fits; the loss is the mean cross-entropy of the targets.

    The test's text has 7,500 bytes: six words of four letters, each of which is followed by one of two others. `train_bpe` with a
    vocabulary of 262 and `Tokenizer` make some 5,000 tokens of it, three for a word. The network is a GPT(262, 24, 32, 4, 1), as in
    stage 3, with the start values given there. After the default number of updates, its weights must predict another text of the same
    words with at most 0.5 bits per byte. That is the sum of −log2 p over its tokens, by the number of their bytes, so that tokens of any
    length can be compared. (The best possible is 0.2; which token follows which gets to 0.6 … 1.0; knowing nothing is above 4.)

    AdamW on 12 windows at a time reaches about 0.23 in 0.6 seconds on one core, which is all there is: 20 seconds of it. The learning
    rate rises to 8e-3 in the first tenth of the updates, and falls to 0 from there. Two settings are needed for it to work every time:
    betas of (0.9, 0.95), and gradients that are clipped to a norm of 1 (nn.utils.clip_grad_norm_), all parameters taken together.

    Args:
        model: logits (B, context, V) = model(ids), for ids (B, context), int64. It is trained in the mode in which it is, from the weights
            that it has. All its parameters are trained. Gradients that they have from before count for nothing.
        tokens: (N,), int64, N > context: N = context + 1 gives a single window.
        context: how many tokens the model looks at, at least 1.
        generator: all random numbers come from it: with a generator in the same state, the same weights become the same weights.
        updates: how many steps of the optimizer are made. 0 leaves the weights as they are.

    Raises: ValueError if N is not larger than context; then nothing is drawn.
    """
    # TODO: about 12 lines.
    raise NotImplementedError("train_gpt")


def generate(
    model: Callable[[Tensor], Tensor],
    ids: Tensor,
    count: int,
    *,
    context: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop: int | None = None,
) -> Tensor:
    """Go on with some prompts, token by token.

    As often as `count` says, for all rows at once:

    1. Give the model the last `context` tokens of each row, or all of them while there are fewer. Only the logits of the last position
       count.
    2. Divide them by the temperature. Keep the top_k largest, all if top_k is None or V or more; among equals, the lower index goes first.
    3. p is the softmax over what is kept, (B, V), in the order of the tokens, and 0 for all others. Draw one token for each row with
       torch.multinomial(p, 1, generator=generator): one such call for each new token, and no other use of the generator.
       Temperature 0 takes the largest logit instead, the lowest index among equals, whatever top_k is, and draws nothing.
    4. A row that has got the token `stop` has ended: from then on, it gets `stop` only, whatever is drawn for it. A `stop` in the prompt
       ends nothing. As soon as all rows have ended, the work is done, and the result may be shorter.

    No graph is recorded. If the model is an nn.Module, it runs in eval mode; afterwards, each of its parts is in the mode in which it was,
    also if the model raises an error.

    Args:
        model: logits (B, L, V) = model(ids), for ids (B, L), int64, 1 ≤ L ≤ context; float32 or float64, from −1e4 to 1e4. It may be any
            callable, or an nn.Module.
        ids: the prompts, (B, L), int64, B ≥ 1 and L ≥ 1; L may be larger than context.
        count: how many tokens to add, 0 or more.
        context: the most tokens that the model can look at, at least 1.
        temperature: 0, or 0.001 and more.
        top_k: at least 1; None keeps all.
        stop: a token, or None.

    Returns: (B, L + n), int64: the prompts and the n new tokens of each, n ≤ count. A new tensor.
    Raises: ValueError if temperature is negative or top_k below 1; then nothing is drawn.
    """
    # TODO: about 21 lines, and 8 in helpers of your own.
    raise NotImplementedError("generate")
