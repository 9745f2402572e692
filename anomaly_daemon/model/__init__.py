"""The LSTM autoencoder: network, training, artifact and the engine that carries state per entity."""
