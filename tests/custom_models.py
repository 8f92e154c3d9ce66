"""A model class of an app: nothing that the library knows, blocks where only its author knows them."""

from __future__ import annotations

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from steerguard.testing import BOS_ID, EOS_ID, PAD_ID, VOCAB_SIZE

WIDTH, BLOCKS = 16, 4


class HomemadeConfig(PreTrainedConfig):
    model_type = "homemade"

    vocab_size: int = VOCAB_SIZE
    hidden_size: int = WIDTH
    num_hidden_layers: int = BLOCKS
    passes: int = 1


class Stage(nn.Module):
    """A block that mixes each token with the mean of those before it."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, hidden, mask):
        counted = hidden * mask[:, :, None]
        mean = counted.cumsum(dim=1) / mask.cumsum(dim=1).clamp(min=1)[:, :, None]
        return hidden + torch.tanh(self.mix(torch.cat([hidden, mean], dim=-1)))


class HomemadeDecoder(PreTrainedModel):
    config_class = HomemadeConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(VOCAB_SIZE, WIDTH)
        self.trunk = nn.ModuleDict({"stages": nn.ModuleList(Stage() for _ in range(BLOCKS))})
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask=None, **_):
        hidden = self.words(input_ids)
        mask = torch.ones(input_ids.shape) if attention_mask is None else attention_mask.to(hidden.dtype)
        for _pass in range(self.config.passes):
            for stage in self.trunk["stages"]:
                hidden = stage(hidden, mask)
        return BaseModelOutput(last_hidden_state=hidden)


class HomemadeForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = HomemadeConfig
    base_model_prefix = "decoder"

    def __init__(self, config):
        super().__init__(config)
        self.decoder = type(self).decoder_class(config)
        self.head = nn.Linear(WIDTH, VOCAB_SIZE, bias=False)
        self.post_init()

    decoder_class = HomemadeDecoder

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, **_):
        return CausalLMOutputWithPast(logits=self.head(self.decoder(input_ids, attention_mask).last_hidden_state))


def homemade_model(name="HomemadeDecoder", *, passes=1):
    """A model whose decoder class has the given name, so that declarations of one test do not meet another's."""
    decoder = type(name, (HomemadeDecoder,), {})
    outer = type(f"{name}ForCausalLM", (HomemadeForCausalLM,), {"decoder_class": decoder})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = outer(HomemadeConfig(passes=passes)).eval()
    generation = model.generation_config
    generation.pad_token_id, generation.bos_token_id, generation.eos_token_id = PAD_ID, BOS_ID, EOS_ID
    generation.use_cache = False
    return model
