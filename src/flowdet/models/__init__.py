"""The trained parts: backbones, necks, flow net, heads."""
