"""The fused supernet: the same function as `darts.models.supernet`, computed fast. Start reading at folding.py."""
