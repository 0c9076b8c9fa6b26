"""FedKNOW: knowledge extractor, gradient restorer, choice of signature tasks, gradient integrator."""
