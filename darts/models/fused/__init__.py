"""The fused supernet: the same function as `darts.supernet`, computed fast. Start reading at folding.py."""
