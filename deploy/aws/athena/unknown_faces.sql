-- Faces without a name of the last 7 days: where, why, how many, and how close they came to somebody on average.
WITH found AS (
  SELECT day, camera, image_id, element_at(faces, n) AS face
  FROM processed
  CROSS JOIN UNNEST(sequence(1, greatest(1, cardinality(faces)))) AS place (n)
  WHERE day >= CAST(CAST(current_date - INTERVAL '7' DAY AS date) AS varchar)
)
SELECT
  day,
  camera,
  face.reason AS reason,
  count(*) AS unknown_faces,
  count(DISTINCT image_id) AS pictures,
  avg(face.similarity) AS mean_similarity
FROM found
WHERE face.reason IS NOT NULL
GROUP BY day, camera, face.reason
ORDER BY day DESC, unknown_faces DESC, camera, reason
