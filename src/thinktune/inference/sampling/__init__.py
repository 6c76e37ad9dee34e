"""How the next token is drawn from a row's logits."""
